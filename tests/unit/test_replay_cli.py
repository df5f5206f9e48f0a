"""`lifeline replay` as a command: what it writes, and what it says about input that it can't take."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from lifeline_stream.cli import app
from lifeline_stream.errors import ConfigError
from lifeline_stream.sources import replay as source

PACKS = Path(__file__).parent / "replay_packs"
KEYS = [
    "alarm_id",
    "event",
    "at",
    "channel",
    "asset",
    "domain",
    "detector",
    "class",
    "severity",
    "value",
    "limit",
]
"""Of a line of `--out`, in order; other programs read them."""
START = datetime(2026, 1, 31, tzinfo=UTC)
PRESSURE = ("--as", "P_*=plant.pressure")
LOW_MPA = 0.12
"""Below the first low limit of `plant.pressure.low`, above the second."""


def run(*arguments: str | Path) -> Result:
    """The command, with its exit code and its two outputs apart."""
    return CliRunner().invoke(app, ["replay", "--packs", str(PACKS), *map(str, arguments)])


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def clock(minutes: float) -> str:
    """A time of the trace as it is written."""
    return (START + timedelta(minutes=minutes)).isoformat()


def wide(path: Path, values: list[float], header: str = "time,P_1", every_min: float = 1.0) -> Path:
    rows = [f"{clock(i * every_min)},{value}" for i, value in enumerate(values)]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ── what it writes ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_event_has_the_keys_that_other_programs_read(tmp_path: Path) -> None:
    trace = wide(tmp_path / "t.csv", [0.3] * 10 + [LOW_MPA] * 10 + [0.3] * 20)
    out = tmp_path / "alarms.jsonl"
    result = run(trace, *PRESSURE, "--out", out)
    assert (result.exit_code, result.stdout) == (0, "")
    raised, cleared = map(json.loads, out.read_text("utf-8").splitlines())
    assert list(raised) == list(cleared) == KEYS
    assert raised["alarm_id"] == cleared["alarm_id"]
    assert raised | {"alarm_id": ""} == {
        "alarm_id": "",
        "event": "raised",
        "at": clock(11),  # the limit holds from minute 10 and must hold for 60 s
        "channel": "P_1",
        "asset": "P_1",
        "domain": "plant",
        "detector": "plant.pressure.low",
        "class": "hazard",
        "severity": 2,
        "value": LOW_MPA,
        "limit": 0.14,
    }
    assert (cleared["event"], cleared["at"]) == ("cleared", clock(30))  # back from minute 20, for 600 s


def test_long_and_wide_traces_give_the_same_alarms(tmp_path: Path) -> None:
    values = [0.3] * 10 + [LOW_MPA] * 10 + [0.3] * 20
    rows = [f"{clock(i)},P_1,{value},good" for i, value in enumerate(values)]
    long = written(tmp_path, "\n".join(["ts,channel,value,quality", *rows]))
    assert run(long, *PRESSURE).stdout == run(wide(tmp_path / "wide.csv", values), *PRESSURE).stdout != ""


def test_readings_that_are_marked_bad_raise_nothing(tmp_path: Path) -> None:
    rows = [f"{clock(i)},P_1,{0.3 if i < 10 else LOW_MPA},{'good' if i < 10 else 'bad'}" for i in range(20)]
    result = run(written(tmp_path, "\n".join(["ts,channel,value,quality", *rows])), *PRESSURE)
    assert (result.exit_code, result.stdout) == (0, "")


def test_an_empty_value_of_a_long_trace_is_a_missing_reading(tmp_path: Path) -> None:
    rows = [f"{clock(i)},P_1,{'' if i % 2 else LOW_MPA}" for i in range(10)]
    result = run(written(tmp_path, "\n".join(["ts,channel,value", *rows])), *PRESSURE)
    assert [line["event"] for line in lines(result)] == ["raised"]
    assert result.stderr.startswith("10 readings")


@pytest.mark.parametrize(
    ("header", "assignment"),
    [
        ("time,P_1", "P_*=plant.pressure@mH2O"),
        ("time,P_1 (mH2O)", "P_*=plant.pressure"),
        ("time,P_1 (MPa)", "P_*=plant.pressure@mH2O"),  # what the user says goes before the header
    ],
)
def test_values_are_in_the_unit_of_the_assignment_or_of_the_header(
    tmp_path: Path, header: str, assignment: str
) -> None:
    trace = wide(tmp_path / "t.csv", [30.0] * 5 + [12.0] * 5, header)
    (event,) = lines(run(trace, "--as", assignment))
    assert event["value"] == pytest.approx(12.0 * 9.80665e-3)


def test_the_unit_may_be_wrong_and_then_it_says_so(tmp_path: Path) -> None:
    result = run(wide(tmp_path / "t.csv", [30.0] * 10), *PRESSURE)
    assert "10 readings outside their plausible range" in result.stderr
    assert "is the unit right?" in result.stderr


def test_with_a_rate_only_the_first_time_counts(tmp_path: Path) -> None:
    rows = [f"2026-01-31 00:00:00,{value}" for value in [0.3] * 100 + [LOW_MPA] * 700]
    trace = written(tmp_path, "\n".join(["time,P_1", *rows]))
    (event,) = lines(run(trace, *PRESSURE, "--rate", "10"))
    assert event["at"] == clock(70 / 60)  # 10 s until it falls, then 60 s


def test_local_times_are_read_in_the_zone_that_is_said(tmp_path: Path) -> None:
    rows = [f"2026/01/31 08:{i:02}:00,{LOW_MPA}" for i in range(5)]
    trace = written(tmp_path, "\n".join(["time,P_1", *rows]))
    (event,) = lines(run(trace, *PRESSURE, "--timezone", "Asia/Shanghai"))
    assert event["at"] == clock(1)


def test_files_that_overlap_in_time_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [0.3 + i % 2 / 100 for i in range(400)]
    parts = [wide(tmp_path / f"{name}.csv", values, f"time,{name}") for name in ("P_1", "P_2")]
    rows = [f"{clock(i)},{value},{value}" for i, value in enumerate(values)]
    together = written(tmp_path, "\n".join(["time,P_1,P_2", *rows]))
    monkeypatch.setattr(source, "CHUNK_ROWS", 50)  # or the first file would be over before the second begins
    assert run(*parts, *PRESSURE).stdout == run(together, *PRESSURE).stdout == ""


def test_the_size_of_a_chunk_changes_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    rows = [
        f"{clock(i)},{rng.uniform(0.08, 0.2):.3f},{rng.uniform(0.08, 0.2):.3f}" for i in range(900) if not 300 < i < 340
    ]
    trace = written(tmp_path, "\n".join(["time,P_1,P_2", *rows]))
    whole = run(trace, *PRESSURE).stdout
    monkeypatch.setattr(source, "CHUNK_ROWS", 7)
    assert run(trace, *PRESSURE).stdout == whole
    assert {"raised", "escalated", "deescalated", "cleared"} == {
        json.loads(line)["event"] for line in whole.splitlines()
    }


def test_a_number_with_a_fraction_may_follow_many_without(tmp_path: Path) -> None:
    rows = [f"{1_769_817_600 + i},{1 if i < 90_000 else 1.5}" for i in range(100_000)]
    result = run(written(tmp_path, "\n".join(["time,P_1", *rows])), "--as", "P_1=plant.pressure")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("100000 readings of 1 channels")


def test_a_repeated_time_keeps_its_first_value_and_is_counted(tmp_path: Path) -> None:
    rows = [f"{clock(i)},{value}" for i in range(5) for value in (0.3, LOW_MPA)]
    result = run(written(tmp_path, "\n".join(["time,P_1", *rows])), *PRESSURE)
    assert result.stdout == ""
    assert "5 at a time that their channel had already" in result.stderr


def test_rows_may_stand_in_any_order(tmp_path: Path) -> None:
    rows = [f"{clock(i)},{0.3 if i < 10 else LOW_MPA}" for i in range(20)]
    backwards = written(tmp_path, "\n".join(["time,P_1", *reversed(rows)]))
    assert [event["at"] for event in lines(run(backwards, *PRESSURE))] == [clock(11)]


def test_a_gap_is_reported_as_silence_and_adds_to_no_duration(tmp_path: Path) -> None:
    low = [f"{clock(i)},{LOW_MPA}" for i in (20_000.5, 20_001, 20_001.5)]
    trace = written(
        tmp_path, "\n".join(["time,P_1", *(f"{clock(i / 2)},0.3" for i in range(20)), f"{clock(10)},{LOW_MPA}", *low])
    )
    found = [(event["event"], event["detector"], event["at"]) for event in lines(run(trace, *PRESSURE))]
    assert found == [
        ("raised", "plant.channel.silent", clock(20)),  # ten minutes after the last reading
        ("cleared", "plant.channel.silent", clock(20_000.5)),
        ("raised", "plant.pressure.low", clock(20_001.5)),  # 60 s after the gap, not at its end
    ]


def test_columns_without_a_sensor_type_are_counted_and_text_is_named(tmp_path: Path) -> None:
    result = run(written(tmp_path, f"time,P_1,Q_1,note\n{clock(0)},0.3,5,ok\n"), *PRESSURE)
    assert result.exit_code == 0
    assert "2 channels, 1 of them without a sensor type" in result.stderr
    assert "left out, as it holds no numbers: note" in result.stderr


def test_true_and_false_are_one_and_zero(tmp_path: Path) -> None:
    rows = [f"{clock(i)},{'true' if i > 5 else 'false'}" for i in range(10)]
    trace = written(tmp_path, "\n".join(["time,float", *rows]))
    assert [e["value"] for e in lines(run(trace, "--as", "float=plant.pump"))] == [1.0]


# ── the scores ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_scores_hold_one_row_for_each_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "CHUNK_ROWS", 6)
    values = [0.3] * 5 + [LOW_MPA] * 5 + [0.3] * 15
    scores = tmp_path / "scores.parquet"
    assert run(wide(tmp_path / "t.csv", values), *PRESSURE, "--scores", scores).exit_code == 0
    table = pq.read_table(scores)
    assert table.column_names == ["channel", "ts", "value", "score", "alarm"]
    assert set(table["channel"].to_pylist()) == {"P_1"}
    assert table["ts"].to_pylist() == [START + timedelta(minutes=i) for i in range(25)]
    assert table["value"].to_pylist() == values
    open_rows = range(6, 20)  # raised 60 s after minute 5, cleared 600 s after minute 10: yellow is 2 of 4
    assert table["score"].to_pylist() == [0.5 if i in open_rows else 0.0 for i in range(25)]
    assert [i for i, alarm in enumerate(table["alarm"].to_pylist()) if alarm] == [6]


# ── what it can't take ───────────────────────────────────────────────────────────────────────────────────────────────

BAD_FILES = {
    "an empty file": ("", "can't be read"),
    "a header alone": ("time,P_1\n", "holds no row"),
    "one column": (f"time\n{clock(0)}\n", "no numbers beside the time 'time'"),
    "texts for values": (f"time,P_1\n{clock(0)},high\n", "no numbers beside the time 'time'"),
    "a text among values": (
        f"time,P_1,Q\n{clock(0)},0.3,1\n{clock(1)},high,1\n",
        "P_1: Failed to parse string: 'high'",
    ),
    "a text among long values": (
        f"ts,channel,value\n{clock(0)},P_1,high\n",
        "value: holds something other than numbers",
    ),
    "infinity": (f"time,P_1\n{clock(0)},0.3\n{clock(1)},inf\n", "P_1: row 2 is not finite; leave the cell empty"),
    "a number beyond all": (f"ts,channel,value\n{clock(0)},P_1,1e400\n", "value: row 1 is not finite"),
    "a time that is none": ("time,P_1\nyesterday,0.3\n", "time: Failed to parse string: 'yesterday'"),
    "one time that is none": (f"time,P_1\n{clock(0)},0.3\nlater,0.3\n", "write times as 2026-01-31T08:00:00+08:00"),
    "an empty time": (f"time,P_1\n{clock(0)},0.3\n,0.3\n", "time: has empty cells"),
    "a time of day": ("time,P_1\n08:00:00,0.3\n", "write times as 2026-01-31T08:00:00+08:00"),
    "digits of a date": ("time,P_1\n20260131080000,0.3\n", "time: 2.02601e+13 is no time"),
    "elapsed seconds": ("time,P_1\n0,0.3\n60,0.3\n", "add the time of that start"),
    "the year 2500": ("time,P_1\n2500-01-01T00:00:00Z,0.3\n", "after 2200"),
    "a name twice": (f"time,P_1,P_1\n{clock(0)},0.3,0.3\n", "P_1: stands in the header more than once"),
    "a name twice but for its unit": (f"time,P_1 (MPa),P_1 (kPa)\n{clock(0)},1,1\n", "P_1: stands in the header more"),
    "a nameless channel": (f"ts,channel,value\n{clock(0)},,0.3\n", "channel: has empty cells"),
    "a quality that is none": (f"ts,channel,value,quality\n{clock(0)},P_1,0.3,fine\n", "quality: 'fine' is none of"),
    "a quality number that is none": (
        f"ts,channel,value,quality\n{clock(0)},P_1,0.3,256\n",
        "quality: '256' is none of",
    ),
    "an empty quality": (f"ts,channel,value,quality\n{clock(0)},P_1,0.3,\n", "quality: 'none' is none of"),
    "rows of different length": (f"time,P_1\n{clock(0)},0.3\n{clock(1)}\n", "with commas and one header line"),
    "semicolons": (f"time;P_1\n{clock(0)};0,3\n", "with commas and one header line"),
}


@pytest.mark.parametrize(("text", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named_with_its_column_and_the_remedy(tmp_path: Path, text: str, said: str) -> None:
    trace = written(tmp_path, text)
    out = written(tmp_path, "kept", "alarms.jsonl")
    result = run(trace, *PRESSURE, "--as", "P_1=plant.pressure", "--out", out)
    assert isinstance(result.exception, ConfigError)  # which `main` turns into exit code 2
    assert said in str(result.exception)
    assert out.read_text("utf-8") == "kept", "nothing is written before everything has been read"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trace.csv", b"\xff\xfe\x00\x01\n\x1b[31m,\n"),
        ("trace.parquet", b"PAR1 is not enough"),
        ("trace.csv.gz", b"no gzip"),
    ],
)
def test_bytes_that_are_no_trace_are_refused_and_not_printed(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"can't be read|no numbers") as caught:
        source.read_trace([tmp_path / name])
    assert "\x1b" not in str(caught.value)


def test_a_parquet_file_with_times_that_are_not_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table({"time": [float("nan"), 1.77e9], "P_1": [0.3, 0.3]}), path)
    with pytest.raises(ConfigError, match="time: nan is no time"):
        source.read_trace([path])


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    assert "is a folder; name its files" in str(run(tmp_path, *PRESSURE).exception)
    assert "no such file" in str(run(tmp_path / "t.csv", *PRESSURE).exception)


BAD_OPTIONS = {
    "no sensor type at all": ([], "no column has a sensor type; give it by --as or --registry. There are P_1"),
    "a glob that matches nothing": (
        ["--as", "Q*=plant.strain"],
        "--as: Q*: matches no column of numbers; there are P_1",
    ),
    "an unknown sensor type": (
        ["--as", "P_1=plant.presure"],
        "plant.presure: no pack declares it; there are plant.pressure",
    ),
    "an unknown domain": (["--as", "P_1=weather.rain"], "weather.rain: no pack declares it; there are plant."),
    "no sensor type": (["--as", "P_1"], "write GLOB=DOMAIN.SENSOR_TYPE"),
    "an unknown unit": (["--as", "P_1=plant.pressure@furlong"], "unit 'furlong' is not known"),
    "a foreign unit": (["--as", "P_1=plant.pressure@m"], "unit 'm' measures length, not pressure (MPa)"),
    "a rate of nothing": ([*PRESSURE, "--rate", "0"], "--rate: 0.0: must lie above 0"),
    "a rate that is none": ([*PRESSURE, "--rate", "nan"], "--rate: nan: must lie above 0"),
    "an unknown zone": ([*PRESSURE, "--timezone", "Mars"], "--timezone: Mars: no such zone"),
    "a folder that is not there for alarms": ([*PRESSURE, "--out", "/nonexistent/a"], "can't be written"),
    "a folder that is not there for scores": ([*PRESSURE, "--scores", "/nonexistent/s"], "can't be written"),
    "packs that are not there": ([*PRESSURE, "--packs", "/nonexistent"], "no such file or folder"),
    "a registry that is not there": ([*PRESSURE, "--registry", "/nonexistent"], "channels.csv: this file is missing"),
}


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_a_bad_option_is_named_with_the_remedy(tmp_path: Path, options: list[str], said: str) -> None:
    result = run(wide(tmp_path / "t.csv", [0.3] * 3), *options)
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)


def test_a_rate_is_no_use_to_a_long_trace(tmp_path: Path) -> None:
    trace = written(tmp_path, f"ts,channel,value\n{clock(0)},P_1,0.3\n")
    assert "--rate is for wide traces" in str(run(trace, *PRESSURE, "--rate", "5").exception)


def test_files_that_disagree_on_a_unit_are_refused_and_spellings_of_one_are_not(tmp_path: Path) -> None:
    first = wide(tmp_path / "a.csv", [1.0] * 3, "time,S (um/m)")
    second = wide(tmp_path / "b.csv", [1.0] * 3, r"time,S (um\m)")
    third = wide(tmp_path / "c.csv", [1.0] * 3, "time,S (mm/m)")
    assert run(first, second, "--as", "S=plant.strain").exit_code == 0
    assert "S: in 'mm/m' here, in 'um/m' in another file" in str(run(first, third, "--as", "S=plant.strain").exception)
