"""Recorded traces from CSV and Parquet, long or wide, as columns in time order.

Long: columns `ts,channel,value[,quality]`. Wide: the first column, or the index, is the time, and every other numeric
column is a channel. A unit in brackets after a name, as in `DMS_CN (um/m)`, is split off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from lifeline_stream.errors import ConfigError, Problem

CHUNK_ROWS = 1_000_000
LONG = ("ts", "channel", "value")
_WITH_UNIT = re.compile(r"^(?P<name>.*?)\s*[(\[](?P<unit>[^()\[\]]+)[)\]]$")
_EPOCH_SCALES = ((1e17, 1e-3), (1e14, 1.0), (1e11, 1e3), (0.0, 1e6))
"""Numbers from this size on are ns, µs, ms and s since 1970; the factor makes them µs."""


class Trace(NamedTuple):
    """One recording.

    Attributes:
        channels: names, in the order of their index.
        units: channel → unit that the header names.
        every_s: per channel the median interval between its readings, s.
        batches: readings in time order, at most CHUNK_ROWS at a time.
    """

    channels: list[str]
    units: dict[str, str]
    every_s: list[float]
    batches: Iterator[ReadingBatch]


@dataclass(frozen=True, slots=True)
class _Part:
    """One file: its channels' names and units, and its rows, each a time with one value per column (wide) or one (long)."""

    names: list[str]
    units: dict[str, str]
    ts_us: Int64s
    column: npt.NDArray[Any]
    channel: npt.NDArray[np.int32] | None
    quality: npt.NDArray[np.uint8] | None


def read_trace(paths: Sequence[Path], *, timezone: str = "UTC", rate_hz: float | None = None) -> Trace:
    """Open traces as one: channels of the same name are the same channel, and files follow each other in time.

    Args:
        paths: CSV (`.csv`, `.csv.gz`) or Parquet files.
        timezone: of times without a zone.
        rate_hz: sample i of a file is taken to be i / rate after its first time.

    Raises:
        ConfigError: file, column and remedy.
    """
    zone = _zone(timezone)
    parts = [_part(path, zone, rate_hz) for path in paths]
    parts.sort(key=lambda part: int(part.ts_us[0]) if len(part.ts_us) else 0)
    channels = list(dict.fromkeys(name for part in parts for name in part.names))
    units = {name: unit for part in parts for name, unit in part.units.items()}
    ix_of = {name: ix for ix, name in enumerate(channels)}
    every_s = [1.0] * len(channels)
    for part in reversed(parts):
        for name, interval_s in _intervals(part).items():
            every_s[ix_of[name]] = interval_s
    return Trace(channels, units, every_s, _batches(parts, ix_of))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigError([Problem("--timezone", "", name, "no such zone; write it like Asia/Shanghai")]) from None


def _wrong(path: Path, column: str, text: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", column, text)])


def _part(path: Path, zone: ZoneInfo, rate_hz: float | None) -> _Part:
    table = _table(path)
    if not table.num_rows:
        raise _wrong(path, "", "holds no row")
    if table.column_names[:3] == list(LONG):
        return _long(path, table, zone)
    return _wide(path, table, zone, rate_hz)


def _table(path: Path) -> Any:  # noqa: ANN401 - pyarrow has no types
    """The file as a table; a Parquet index comes first."""
    if not path.is_file():
        raise _wrong(path, "", "no such file")
    try:
        if path.suffix != ".parquet":
            return pcsv.read_csv(path)
        table = pq.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise _wrong(path, "", f"can't be read: {error}") from None
    index = [name for name in _index_of(table) if name in table.column_names]
    return table.select(index + [name for name in table.column_names if name not in index])


def _index_of(table: Any) -> list[str]:  # noqa: ANN401
    pandas = (table.schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in pandas if isinstance(name, str)]


def _long(path: Path, table: Any, zone: ZoneInfo) -> _Part:  # noqa: ANN401
    ts_us = _times(path, "ts", table["ts"], zone)
    encoded = table["channel"].cast(pa.string()).combine_chunks().dictionary_encode()
    if encoded.null_count or table["value"].null_count:
        raise _wrong(path, "channel, value", "has empty cells; leave the row out instead")
    quality = _qualities(path, table["quality"]) if "quality" in table.column_names else None
    order = np.argsort(ts_us, kind="stable")
    channel = encoded.indices.to_numpy().astype(np.int32)[order]
    value = _numbers(path, "value", table["value"])[order]
    return _Part(encoded.dictionary.to_pylist(), {}, ts_us[order], value, channel, quality if quality is None else quality[order])


def _qualities(path: Path, column: Any) -> npt.NDArray[np.uint8]:  # noqa: ANN401
    if pa.types.is_integer(column.type):
        flags: npt.NDArray[np.uint8] = column.to_numpy().astype(np.uint8)
        if flags.max() <= Quality.MISSING:
            return flags
    known = {q.name.lower(): int(q) for q in Quality}
    try:
        return np.array([known[str(name).lower()] for name in column.to_pylist()], np.uint8)
    except KeyError as error:
        raise _wrong(path, "quality", f"{error} is none of 0–9 or {', '.join(known)}") from None


def _wide(path: Path, table: Any, zone: ZoneInfo, rate_hz: float | None) -> _Part:  # noqa: ANN401
    time, *columns = table.column_names
    numeric = [c for c in columns if pa.types.is_floating(table[c].type) or pa.types.is_integer(table[c].type)]
    if not numeric:
        raise _wrong(path, "", f"no numeric column beside the time {time!r}; long traces begin with {','.join(LONG)}")
    split = [_split(name) for name in numeric]
    names = [name for name, _ in split]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise _wrong(path, ", ".join(twice), "stands in the header more than once")
    ts_us = _times(path, time, table[time].slice(0, 1) if rate_hz else table[time], zone)
    if rate_hz:
        ts_us = ts_us[0] + np.rint(np.arange(table.num_rows) * (1e6 / rate_hz)).astype(np.int64)
    grid = np.column_stack([_numbers(path, name, table[name]) for name in numeric])
    order = np.argsort(ts_us, kind="stable") if (ts_us[1:] < ts_us[:-1]).any() else slice(None)
    units = {name: unit for name, unit in split if unit}
    return _Part(names, units, ts_us[order], grid[order], None, None)


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
    try:
        numbers: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _wrong(path, name, f"holds something other than numbers: {error}") from None
    return numbers


def _times(path: Path, name: str, column: Any, zone: ZoneInfo) -> Int64s:  # noqa: ANN401
    """A column of times as int64 µs since 1970 UTC."""
    try:
        if pa.types.is_string(column.type):
            column = _parse_times(column)
        if pa.types.is_timestamp(column.type):
            if column.type.tz is None and zone.key != "UTC":
                column = pc.assume_timezone(column, zone.key, ambiguous="earliest", nonexistent="latest")
            us: Int64s = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64()).to_numpy()
            return us
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise _wrong(path, name, f"is {column.type}, not a time")
    except pa.ArrowInvalid as error:
        text = f"{error}; write times as 2026-01-31T08:00:00+08:00, or as numbers since 1970; if there is none use --rate"
        raise _wrong(path, name, text) from None
    numbers = _numbers(path, name, column)
    if np.isnan(numbers).any():
        raise _wrong(path, name, "has empty cells")
    factor = next(factor for least, factor in _EPOCH_SCALES if abs(numbers[0]) >= least)
    return np.rint(numbers * factor).astype(np.int64)


def _parse_times(column: Any) -> Any:  # noqa: ANN401
    """ISO 8601 with or without a zone, or day/month/year as European exports have it."""
    if _has_zone(column[0].as_py()):
        return column.cast(pa.timestamp("us", tz="UTC"))
    for form in ("%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S"):
        parsed = pc.strptime(column, format=form, unit="us", error_is_null=True)
        if parsed.null_count == column.null_count:
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
    for part in parts:
        ix = np.array([ix_of[name] for name in part.names], np.int32)
        step = max(1, CHUNK_ROWS // (1 if part.channel is not None else len(part.names)))
        for first in range(0, len(part.ts_us), step):
            rows = slice(first, first + step)
            yield _long_rows(part, rows, ix) if part.channel is not None else _wide_rows(part, rows, ix)


def _long_rows(part: _Part, rows: slice, ix: npt.NDArray[np.int32]) -> ReadingBatch:
    if part.channel is None:
        return ReadingBatch.empty()
    n = len(part.ts_us[rows])
    quality = part.quality[rows] if part.quality is not None else np.zeros(n, np.uint8)
    return ReadingBatch(ix[part.channel[rows]], part.ts_us[rows], part.column[rows], quality.copy())


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
