"""Recorded inputs and the alarms they must give: a case is a folder, and adding one needs no code.

`golden/<domain>/<case>/input.csv` is a long trace whose channels are named `device/sensor type`, in canonical units;
`expected.jsonl` holds the events, in any order, each with the keys that the case cares about; `pack.toml`, where there
is one, is used instead of the domain's own. Channels report as often as their sensor type says.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.packs import Pack
from lifeline_stream.declarations import load_packs, validate
from lifeline_stream.replay import Replay, cast_channels
from lifeline_stream.resources import find
from lifeline_stream.sources.replay import read_trace

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("*/*/input.csv"))
SHIPPED = {pack.domain.id: pack for pack in load_packs(find("detectors"))}


def pack_of(case: Path) -> Pack:
    own = case / "pack.toml"
    if not own.exists():
        return SHIPPED[case.parent.name]
    pack, problems = validate(Pack, own)
    assert pack is not None, problems
    assert pack.problems() == []
    return pack


def city_of(channels: list[str], pack: Pack) -> Catalog:
    every_s = {sensor.id: sensor.every_s for sensor in pack.sensor}
    rows = []
    for name in channels:
        _, _, sensor = name.partition("/")
        rows.append((name, f"{pack.domain.id}.{sensor}", every_s[sensor]))
    city = Catalog.of_channels(rows)
    return Catalog(tuple(replace(channel, device=channel.id.partition("/")[0]) for channel in city.channels))


def events_of(case: Path) -> list[dict[str, Any]]:
    pack = pack_of(case)
    trace = read_trace([case / "input.csv"])
    run = Replay(cast_channels(trace, [], city_of(trace.channels, pack), [pack]), [pack])
    events = [event for chunk in trace.batches for event in run.feed(chunk)[1]] + run.finish()
    return [run.line(event) for event in events if not event.trial]


def place(event: dict[str, Any]) -> tuple[datetime, str, str, str]:
    return datetime.fromisoformat(event["at"]), event["channel"], event["detector"], event["event"]


def test_every_domain_has_a_case() -> None:
    assert {case.parent.name for case in CASES} == set(SHIPPED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_a_recorded_input_gives_the_expected_alarms(case: Path) -> None:
    found = sorted(events_of(case), key=place)
    lines = (case / "expected.jsonl").read_text(encoding="utf-8").splitlines()
    expected = sorted(map(json.loads, lines), key=place)
    assert [place(event) for event in found] == [place(event) for event in expected]
    for event, wanted in zip(found, expected, strict=True):
        cared_for = {key: event[key] for key in wanted if key != "at"}
        assert cared_for == {
            key: pytest.approx(v) if isinstance(v, float) else v for key, v in wanted.items() if key != "at"
        }
