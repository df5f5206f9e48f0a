"""Recorded traces through `lifeline replay` as a command; LIFELINE_TEST_DATA names the folder that holds them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BRIDGE_HZ = 100
QUIET_REFERENCE_S = 470
"""The reference file has a step of its own after so long."""
WATER = ("--as", "P_*=water.pressure@mH2O", "--as", "LEVEL_*=water.tank_level@m", "--as", "FLOW_*=water.flow@m³/h")
KEYS = {"alarm_id", "event", "at", "channel", "asset", "domain", "detector", "class", "severity", "value", "limit"}


def trace(name: str) -> Path:
    """A trace's folder; without it the test is skipped, for the traces are not part of the project."""
    folder = os.environ.get("LIFELINE_TEST_DATA")
    if not folder:
        pytest.skip("LIFELINE_TEST_DATA names no folder with recorded traces")
    path = Path(folder) / name
    if not path.is_dir():
        pytest.skip(f"the folder of LIFELINE_TEST_DATA holds no {name}")
    return path


def replay(out: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    """The events that the command writes."""
    command = [Path(sys.executable).parent / "lifeline", "replay", *arguments, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert all(set(event) == KEYS for event in events)
    return events


def raised_bridge_s(path: Path, out: Path) -> list[float]:
    """When alarms of the bridge pack were raised, in seconds since the beginning of a file."""
    with path.open(encoding="utf-8") as file:
        first = datetime.fromisoformat(file.readlines()[1].split(",")[0] + "+00:00")
    events = replay(out, path, "--rate", str(BRIDGE_HZ), "--as", "DMS_CN=bridge.strain")
    assert {event["domain"] for event in events} <= {"bridge"}
    raised = [event for event in events if event["event"] == "raised" and event["class"] == "hazard"]
    return [(datetime.fromisoformat(event["at"]) - first) / timedelta(seconds=1) for event in raised]


def bridge_labels() -> list[dict[str, str]]:
    with (trace("munich_bridge") / "labels.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("lowering", [0, 1])
def test_a_lowered_support_alarms_between_its_onset_and_its_end_and_not_before(tmp_path: Path, lowering: int) -> None:
    label = bridge_labels()[lowering]
    onset_s, settled_s = (float(label[f"derived_{moment}"]) / BRIDGE_HZ for moment in ("onset", "settled"))
    raised_s = raised_bridge_s(trace("munich_bridge") / Path(label["file"]).name, tmp_path / "alarms.jsonl")
    assert raised_s, "no alarm"
    assert onset_s < raised_s[0] < settled_s


def test_the_untouched_bridge_is_quiet(tmp_path: Path) -> None:
    (reference,) = trace("munich_bridge").glob("Reference*.csv")
    assert [at_s for at_s in raised_bridge_s(reference, tmp_path / "alarms.jsonl") if at_s <= QUIET_REFERENCE_S] == []


def test_the_time_column_of_the_bridge_says_the_same_as_its_rate(tmp_path: Path) -> None:
    path = trace("munich_bridge") / Path(bridge_labels()[0]["file"]).name
    by_time = replay(tmp_path / "time.jsonl", path, "--as", "DMS_CN=bridge.strain")
    by_rate = replay(tmp_path / "rate.jsonl", path, "--as", "DMS_CN=bridge.strain", "--rate", str(BRIDGE_HZ))
    assert [(e["event"], e["at"]) for e in by_time] == [(e["event"], e["at"]) for e in by_rate] != []


def test_a_year_without_a_leak_raises_no_hazard(tmp_path: Path) -> None:
    events = replay(tmp_path / "alarms.jsonl", trace("ltown_null") / "scada.parquet", *WATER)
    assert [event for event in events if event["class"] == "hazard"] == []


def test_a_year_of_small_leaks_floods_nobody(tmp_path: Path) -> None:
    path = trace("ltown_2018") / "scada.parquet"
    events = replay(tmp_path / "alarms.jsonl", path, *WATER)
    n_channels = len(pq.read_schema(path).names) - 1
    assert sum(event["event"] == "raised" for event in events) <= n_channels, "more than one a channel and year"


def test_a_main_that_bursts_within_the_year_is_found_at_once_and_nothing_else_is(tmp_path: Path) -> None:
    table = pq.read_table(trace("ltown_null") / "scada.parquet")
    names = table.schema.names
    head_m = table["P_n1"].to_numpy().copy()
    noon_of_july_1 = (31 + 28 + 31 + 30 + 31 + 30) * 288 + 144
    head_m[noon_of_july_1 : noon_of_july_1 + 24] = 8.0  # 0.078 MPa, between the orange and the red limit
    path = tmp_path / "burst.parquet"
    pq.write_table(table.set_column(names.index("P_n1"), "P_n1", pa.array(head_m)), path)
    raised = [e for e in replay(tmp_path / "alarms.jsonl", path, *WATER) if e["event"] == "raised"]
    assert {event["channel"] for event in raised} == {"P_n1"}
    low = [(e["at"], e["severity"]) for e in raised if e["detector"] == "water.pressure.abnormal"]
    assert low == [("2018-07-01T12:05:00+00:00", 3)]
