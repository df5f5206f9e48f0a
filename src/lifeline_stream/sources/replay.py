"""Recorded traces from CSV and Parquet, long or wide, as columns in time order.

Long: columns `ts,channel,value[,quality]`; an empty value is a missing one. Wide: the first column, or the index, is
the time, every other column of numbers a channel, and an empty cell no reading. A unit in brackets after a name, as in
`DMS_CN (um/m)`, is split off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from lifeline_stream.core.model import Int64s, Quality, ReadingBatch
from lifeline_stream.core.units import UnitError, parse_unit
from lifeline_stream.errors import ConfigError, Problem

CHUNK_ROWS = 1_000_000
_FASTEST_HZ = 1e6
LONG = ("ts", "channel", "value")
_WITH_UNIT = re.compile(r"^(?P<name>.*?)\s*[(\[](?P<unit>[^()\[\]]+)[)\]]$")
_EPOCH_SCALES = ((1e17, 1e-3), (1e14, 1.0), (1e11, 1e3), (0.0, 1e6))
"""Numbers from this size on are ns, µs, ms and s since 1970; the factor makes them µs."""
_FIRST_US, _LAST_US = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000 for year in (2000, 2200))
_LOCAL_FORMS = ("%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S")
_LONGEST_DETAIL = 200
_HOW_TO_WRITE_TIMES = (
    "write times as 2026-01-31T08:00:00+08:00, or as numbers since 1970 in s, ms, µs or ns; "
    "to seconds since the start of a recording add the time of that start"
)


class Trace(NamedTuple):
    """One recording.

    Attributes:
        channels: names, in the order of their index.
        units: channel → unit that the header names.
        every_s: per channel the median interval between its readings, s; 0 where it has fewer than two.
        batches: readings in time order, about CHUNK_ROWS at a time.
        left_out: column that holds no numbers → what it holds.
    """

    channels: list[str]
    units: dict[str, str]
    every_s: list[float]
    batches: Iterator[ReadingBatch]
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Part:
    """One file: its channels' names and units, and its rows: a time with one value per column (wide) or one (long)."""

    path: Path
    names: list[str]
    units: dict[str, str]
    ts_us: Int64s
    column: npt.NDArray[Any]
    channel: npt.NDArray[np.int32] | None
    quality: npt.NDArray[np.uint8] | None
    left_out: dict[str, str]


def read_trace(paths: Sequence[Path], *, timezone: str = "UTC", rate_hz: float | None = None) -> Trace:
    """Open traces as one: channels of the same name are the same channel, and files are merged in time.

    Args:
        paths: CSV (`.csv`, `.csv.gz`) or Parquet files.
        timezone: of times without a zone.
        rate_hz: sample i of a file is taken to be i / rate after its first time.

    Raises:
        ConfigError: file, column and remedy.
    """
    zone = _zone(timezone)
    if rate_hz is not None and not 0 < rate_hz <= _FASTEST_HZ:
        raise ConfigError([Problem("--rate", "", str(rate_hz), f"must lie above 0 and up to {_FASTEST_HZ:g} Hz")])
    parts = [_part(path, zone, rate_hz) for path in paths]
    parts.sort(key=lambda part: int(part.ts_us[0]))
    channels = list(dict.fromkeys(name for part in parts for name in part.names))
    ix_of = {name: ix for ix, name in enumerate(channels)}
    every_s = [0.0] * len(channels)
    for part in reversed(parts):
        for name, interval_s in _intervals(part).items():
            every_s[ix_of[name]] = interval_s
    left_out = {name: cell for part in parts for name, cell in part.left_out.items() if name not in ix_of}
    return Trace(channels, _units(parts), every_s, _batches(parts, ix_of), left_out)


def _units(parts: Sequence[_Part]) -> dict[str, str]:
    """The unit of each channel whose header names one; files must agree."""
    units: dict[str, str] = {}
    for part in parts:
        for name, unit in part.units.items():
            first = units.setdefault(name, unit)
            if _spelled(first) != _spelled(unit):
                raise _wrong(part.path, name, f"in {unit!r} here, in {first!r} in another file; replay them apart")
    return units


def _spelled(unit: str) -> str:
    try:
        return parse_unit(unit)
    except UnitError:
        return unit


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigError([Problem("--timezone", "", name, "no such zone; write it like Asia/Shanghai")]) from None


def _wrong(path: Path, column: str, text: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", column, text)])


def _said(error: Exception) -> str:
    """What pyarrow says, without the bytes that a file may hold."""
    text = "".join(c if c.isprintable() else "·" for c in str(error))
    return text if len(text) <= _LONGEST_DETAIL else text[:_LONGEST_DETAIL] + "…"


def _part(path: Path, zone: ZoneInfo, rate_hz: float | None) -> _Part:
    table = _table(path)
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise _wrong(path, ", ".join(twice), "stands in the header more than once")
    if not table.num_rows:
        raise _wrong(path, "", "holds no row")
    if table.column_names[:3] != list(LONG):
        return _wide(path, table, zone, rate_hz)
    if rate_hz:
        raise _wrong(path, "ts", "--rate is for wide traces; every row of a long one has its own time")
    return _long(path, table, zone)


def _table(path: Path) -> Any:  # noqa: ANN401 - pyarrow has no types
    """The file as a table; a Parquet index comes first."""
    if not path.is_file():
        raise _wrong(path, "", "is a folder; name its files" if path.is_dir() else "no such file")
    try:
        if path.suffix != ".parquet":
            return _csv(path)
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        remedy = "Parquet (.parquet), or CSV in UTF-8 with commas and one header line"
        raise _wrong(path, "", f"can't be read as {remedy}: {_said(error)}") from None
    index = [name for name in _index_of(table) if name in table.column_names]
    return table.select(index + [name for name in table.column_names if name not in index])


def _csv(path: Path) -> Any:  # noqa: ANN401
    """As one block: pyarrow takes a column's type from the first one, and an integer may be followed by a fraction."""
    with pa.input_stream(str(path)) as file:
        content = file.read()
    block = min(len(content) + 1, 2**31 - 1)
    return pcsv.read_csv(pa.BufferReader(content), read_options=pcsv.ReadOptions(block_size=block))


def _index_of(table: Any) -> list[str]:  # noqa: ANN401
    pandas = (table.schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in pandas if isinstance(name, str)]


def _long(path: Path, table: Any, zone: ZoneInfo) -> _Part:  # noqa: ANN401
    ts_us = _times(path, "ts", table["ts"], zone)
    encoded = table["channel"].cast(pa.string()).combine_chunks().dictionary_encode()
    if encoded.null_count:
        raise _wrong(path, "channel", "has empty cells; leave the row out instead")
    value = _numbers(path, "value", table["value"])
    quality = _qualities(path, table["quality"]) if "quality" in table.column_names else np.zeros(len(value), np.uint8)
    quality[np.isnan(value)] = Quality.MISSING
    order = np.argsort(ts_us, kind="stable")
    channel = encoded.indices.to_numpy().astype(np.int32)[order]
    return _Part(path, encoded.dictionary.to_pylist(), {}, ts_us[order], value[order], channel, quality[order], {})


def _qualities(path: Path, column: Any) -> npt.NDArray[np.uint8]:  # noqa: ANN401
    if pa.types.is_integer(column.type) and not column.null_count:
        flags = column.to_numpy()
        if flags.min() >= 0 and flags.max() <= Quality.MISSING:
            return flags.astype(np.uint8)  # type: ignore[no-any-return]
    known = {q.name.lower(): int(q) for q in Quality}
    try:
        return np.array([known[str(name).lower()] for name in column.to_pylist()], np.uint8)
    except KeyError as error:
        raise _wrong(path, "quality", f"{error} is none of 0–9 or {', '.join(known)}") from None


def _wide(path: Path, table: Any, zone: ZoneInfo, rate_hz: float | None) -> _Part:  # noqa: ANN401
    time, *headers = table.column_names
    columns, left_out, units = {}, {}, {}
    for header in headers:
        name, unit = _split(header)
        if name in columns:
            raise _wrong(path, name, "stands in the header more than once")
        try:
            columns[name] = table[header].cast(pa.float64())
            units[name] = unit
        except pa.ArrowException as error:
            left_out[name] = _said(error)
    if not columns:
        raise _wrong(path, "", f"no numbers beside the time {time!r}; long traces begin with {','.join(LONG)}")
    ts_us = _times(path, time, table[time].slice(0, 1) if rate_hz else table[time], zone)
    if rate_hz:
        ts_us = ts_us[0] + np.rint(np.arange(table.num_rows) * (1e6 / rate_hz)).astype(np.int64)
    grid = np.column_stack([_numbers(path, name, column) for name, column in columns.items()])
    order = np.argsort(ts_us, kind="stable") if (ts_us[1:] < ts_us[:-1]).any() else slice(None)
    stated = {name: unit for name, unit in units.items() if unit}
    return _Part(path, list(columns), stated, ts_us[order], grid[order], None, None, left_out)


def _split(header: str) -> tuple[str, str]:
    """A column's name and the unit in its brackets.

    >>> _split("DMS_CN (um/m)")
    ('DMS_CN', 'um/m')
    """
    match = _WITH_UNIT.match(header)
    if match is None or match["unit"] == "-":
        return header, ""
    return match["name"], match["unit"]


def _numbers(path: Path, name: str, column: Any) -> npt.NDArray[np.float64]:  # noqa: ANN401
    """A column as float64, NaN where it is empty."""
    try:
        numbers: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _wrong(path, name, f"holds something other than numbers: {_said(error)}") from None
    if np.isinf(numbers).any():
        raise _wrong(path, name, f"row {np.flatnonzero(np.isinf(numbers))[0] + 1} is not finite; leave the cell empty")
    return numbers


def _times(path: Path, name: str, column: Any, zone: ZoneInfo) -> Int64s:  # noqa: ANN401
    """A column of times as int64 µs since 1970 UTC."""
    if column.null_count:
        raise _wrong(path, name, "has empty cells; leave the row out instead")
    try:
        ts_us = _stamps(column, zone)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise _wrong(path, name, f"{_said(error)}; {_HOW_TO_WRITE_TIMES}") from None
    for us in (ts_us.min(), ts_us.max()):
        if not _FIRST_US <= us < _LAST_US:
            when = f"{int(us) / 1e6:g} s since 1970"
            raise _wrong(path, name, f"{when} lies before 2000 or after 2200; {_HOW_TO_WRITE_TIMES}")
    return ts_us


def _stamps(column: Any, zone: ZoneInfo) -> Int64s:  # noqa: ANN401
    """Times of any kind as µs.

    Raises:
        ValueError, pyarrow.ArrowException: they are none.
    """
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        numbers: npt.NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
        factor = next((factor for least, factor in _EPOCH_SCALES if abs(numbers[0]) >= least), 1.0)
        if not (np.abs(numbers) * factor < _LAST_US).all():
            raise ValueError(f"{np.abs(numbers).max():g} is no time")
        return np.rint(numbers * factor).astype(np.int64)
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s"))
    elif not pa.types.is_timestamp(kind):
        column = _parse_times(column.cast(pa.string()))
    if column.type.tz is None and zone.key != "UTC":
        column = pc.assume_timezone(column, zone.key, ambiguous="earliest", nonexistent="latest")
    us: Int64s = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64()).to_numpy()
    return us


def _parse_times(column: Any) -> Any:  # noqa: ANN401
    """ISO 8601 with or without a zone, or with strokes, day first or year first."""
    if _has_zone(column[0].as_py()):
        return column.cast(pa.timestamp("us", tz="UTC"))
    for form in _LOCAL_FORMS:
        parsed = pc.strptime(column, format=form, unit="us", error_is_null=True)
        if not parsed.null_count:
            return parsed
    return column.cast(pa.timestamp("us"))


def _has_zone(text: str) -> bool:
    return text.endswith("Z") or re.search(r"[+-]\d\d:?\d\d$", text[10:]) is not None


def _intervals(part: _Part) -> dict[str, float]:
    """Median interval of each channel over the beginning of a file, s."""
    found = {}
    head = slice(0, 20_000)
    for ix, name in enumerate(part.names):
        if part.channel is None:
            ts_us = part.ts_us[head][~np.isnan(part.column[head, ix])]
        else:
            ts_us = part.ts_us[part.channel == ix][head]
        steps = np.diff(ts_us)
        steps = steps[steps > 0]
        if len(steps):
            found[name] = float(np.median(steps)) / 1e6
    return found


def _batches(parts: Sequence[_Part], ix_of: dict[str, int]) -> Iterator[ReadingBatch]:
    """All parts merged in time: a batch is a stretch of time in which no part has much more than its share of rows."""
    ix = [np.array([ix_of[name] for name in part.names], np.int32) for part in parts]
    steps = [CHUNK_ROWS if part.channel is not None else max(1, CHUNK_ROWS // len(part.names)) for part in parts]
    at = [0] * len(parts)
    while running := [k for k, part in enumerate(parts) if at[k] < len(part.ts_us)]:
        until_us = min(parts[k].ts_us[min(at[k] + steps[k], len(parts[k].ts_us)) - 1] for k in running)
        found = []
        for k in running:
            rows = slice(at[k], int(np.searchsorted(parts[k].ts_us, until_us, side="right")))
            at[k] = rows.stop
            if rows.stop > rows.start:
                found.append((_wide_rows if parts[k].channel is None else _long_rows)(parts[k], rows, ix[k]))
        batch = ReadingBatch.concat(found)
        yield batch.take(np.argsort(batch.ts_us, kind="stable")) if len(found) > 1 else batch


def _long_rows(part: _Part, rows: slice, ix: npt.NDArray[np.int32]) -> ReadingBatch:
    if part.channel is None or part.quality is None:
        return ReadingBatch.empty()
    return ReadingBatch(ix[part.channel[rows]], part.ts_us[rows], part.column[rows], part.quality[rows].copy())


def _wide_rows(part: _Part, rows: slice, ix: npt.NDArray[np.int32]) -> ReadingBatch:
    """Row by row, leaving out empty cells."""
    grid = part.column[rows]
    channel = np.tile(ix, len(grid))
    ts_us = np.repeat(part.ts_us[rows], len(ix))
    value = np.ascontiguousarray(grid).ravel()
    here = ~np.isnan(value)
    if not here.all():
        channel, ts_us, value = channel[here], ts_us[here], value[here]
    return ReadingBatch(channel, ts_us, value, np.zeros(len(value), np.uint8))
