"""Format `json.v1`: a reading, a list of readings, a columnar batch, or a waveform block; see docs/data-exchange.md.

>>> message = decode(b'{"ts": 1764000000000, "values": {"ch4": 0.25}}')
>>> message.names, message.ts_us, message.value
(['ch4'], array([1764000000000000]), array([0.25]))
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from lifeline_stream.core.model import BACKFILL, Decoded, Quality, Reject, RejectReason, UInt8s

MAX_BYTES = 1 << 20
"""A larger message is refused unread."""
_MAX_TS_MS = 2**62 / 1000
_MAX_FLOAT = sys.float_info.max
_PERIODS_MS = (1e-3, 1e7)
_DEEPEST = 16
"""Brackets that may be open at once; a message of this format needs four."""

Stamp = int | float | str
Cell = float | bool | None
Flag = int | str


class _Batch(msgspec.Struct):
    """The columnar form, typed, so that one pass fills plain lists of numbers."""

    channels: list[str]
    values: list[float | None]
    ts: list[int] | int
    ix: list[int] | None = None
    units: list[str | None] | None = None
    unit: str | None = None
    quality: list[int] | int = 0
    sent: int | None = None
    backfill: bool = False
    seq: int | None = None


_decode_batch: Callable[[bytes], _Batch] = msgspec.json.Decoder(_Batch).decode
_decode_any: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_QUALITY = {q.name.lower(): int(q) for q in Quality}


class _Refused(Exception):  # noqa: N818 - carries a reject up to its message
    """One part of a message can't be taken."""

    def __init__(self, reason: RejectReason, detail: str, n_readings: int = 1) -> None:
        self.reject = Reject(reason, detail, n_readings=n_readings)
        super().__init__(detail)


def decode(payload: bytes) -> Decoded:
    """Turn a message into rows; what can't be decoded becomes a reject, and the rest is kept. Never raises."""
    if len(payload) > MAX_BYTES:
        return Decoded.refused(RejectReason.TOO_LARGE, f"{len(payload)} bytes; send at most {MAX_BYTES} a message")
    try:
        return _columnar(_decode_batch(payload))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _Refused, OverflowError, ValueError):
        return _slow(payload)


def _columnar(batch: _Batch) -> Decoded:
    """The fast path: any irregularity raises, and the slow path says what it was."""
    value = np.array(batch.values, np.float64)
    n = len(value)
    n_names = len(batch.channels)
    ix = np.arange(n_names, dtype=np.int32) if batch.ix is None else np.array(batch.ix, np.int32)
    ts = np.array(batch.ts, np.int64) if isinstance(batch.ts, list) else np.full(n, batch.ts, np.int64)
    quality = (
        np.array(batch.quality, np.uint8) if isinstance(batch.quality, list) else np.full(n, batch.quality, np.uint8)
    )
    units: list[str | None] = batch.units if batch.units is not None else [batch.unit] * n_names
    sent = batch.sent or 0
    regular = (
        (len(ix) == len(ts) == len(quality) == n > 0)
        and (len(units) == n_names and all(batch.channels) and "\0" not in "".join(batch.channels))
        and (ix.min() >= 0 and ix.max() < n_names and quality.max() <= Quality.MISSING)
        and (min(ts.min(), sent) >= -_MAX_TS_MS and max(ts.max(), sent) <= _MAX_TS_MS and not np.isinf(value).any())
    )
    if not regular:
        raise _Refused(RejectReason.MALFORMED, "irregular")
    quality[np.isnan(value)] = Quality.MISSING
    if batch.backfill:
        quality |= BACKFILL
    return Decoded(batch.channels, units, ix, ts * 1000, value, quality, sent_us=sent * 1000)


# ── the slow path: every form, row by row, with a reason for each row that is refused ────────────────────────────────


class _Rows:
    """Rows as they are found, by name."""

    def __init__(self) -> None:
        self.index: dict[tuple[str, str | None], int] = {}
        self.ix: list[int] = []
        self.ts_us: list[int] = []
        self.value: list[float] = []
        self.quality: list[int] = []
        self.blocks: list[tuple[int, int, float, Any, int]] = []
        self.rejects: list[Reject] = []
        self.sent_us = 0

    def name(self, name: str, unit: str | None) -> int:
        return self.index.setdefault((name, unit), len(self.index))

    def decoded(self) -> Decoded:
        names = [name for name, _ in self.index]
        units = [unit for _, unit in self.index]
        quality: UInt8s = np.array(self.quality, np.uint8)
        columns = (
            np.array(self.ix, np.int32),
            np.array(self.ts_us, np.int64),
            np.array(self.value, np.float64),
            quality,
        )
        return Decoded(names, units, *columns, self.blocks, self.sent_us, self.rejects)


def _slow(payload: bytes) -> Decoded:
    try:
        message = _parse(payload)
    except _Refused as refused:
        return Decoded.refused(refused.reject.reason, refused.reject.detail)
    rows = _Rows()
    _any_form(rows, message, "")
    if not rows.ix and not rows.blocks and not rows.rejects:
        return Decoded.refused(RejectReason.EMPTY, "the message holds no reading")
    return rows.decoded()


def _parse(payload: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return _decode_any(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = str(error)
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise _Refused(RejectReason.MALFORMED, f"not UTF-8: {error.reason} at byte {error.start}") from None
    if _depth(text) > _DEEPEST:
        raise _Refused(RejectReason.MALFORMED, f"nested deeper than {_DEEPEST}")
    try:
        return json.loads(text)  # takes NaN and 1e400, so that the other readings of the message are kept
    except (ValueError, RecursionError):
        raise _Refused(RejectReason.MALFORMED, f"not JSON: {problem}") from None


def _depth(text: str) -> int:
    deepest = depth = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _any_form(rows: _Rows, message: Any, at: str) -> None:  # noqa: ANN401
    """Take a message of any form; `at` says where in a list it stands."""
    if isinstance(message, list) and not at:
        for place, item in enumerate(message):
            _any_form(rows, item, f"[{place}]")
        return
    try:
        _one_form(rows, message, at)
    except _Refused as refused:
        rows.rejects.append(refused.reject)


def _one_form(rows: _Rows, message: Any, at: str) -> None:  # noqa: ANN401
    if not isinstance(message, dict):
        raise _Refused(RejectReason.MALFORMED, f"{at or 'message'}: expected an object, found {_kind(message)}")
    if "channels" in message:
        _slow_columnar(rows, message, at)
    elif "t0" in message:
        _waveform(rows, message, at)
    elif "values" in message:
        _single(rows, message, at)
    else:
        raise _Refused(RejectReason.MALFORMED, f"{at or 'message'}: none of 'values', 'channels', 't0' is there")


def _single(rows: _Rows, message: dict[str, Any], at: str) -> None:
    values = message["values"]
    if not isinstance(values, dict):
        raise _Refused(
            RejectReason.MALFORMED, f"{at}.values: expected an object of name and value, found {_kind(values)}"
        )
    if not values:
        raise _Refused(RejectReason.EMPTY, f"{at}.values: holds no reading")
    ts_us = _stamp(message.get("ts"), f"{at}.ts", len(values))
    quality = _flag(message.get("quality", 0), f"{at}.quality") | _backfill(message)
    units = _units(message)
    rows.sent_us = _sent(message, at) or rows.sent_us
    for name, value in values.items():
        unit = units.get(name) if isinstance(units, dict) else units
        _row(rows, (name, unit), ts_us, value, quality, f"{at}.values.{name}")


def _slow_columnar(rows: _Rows, message: dict[str, Any], at: str) -> None:
    names, values = _list(message, "channels", at), _list(message, "values", at)
    n = len(values)
    if not n:
        raise _Refused(RejectReason.EMPTY, f"{at}.values: holds no reading")
    columns = {
        "ix": message.get("ix") if message.get("ix") is not None else list(range(len(names))),
        "ts": message.get("ts"),
        "quality": message.get("quality", 0),
    }
    spread = {key: column if isinstance(column, list) else [column] * n for key, column in columns.items()}
    units = _units(message)
    units = units if isinstance(units, list) else [units] * len(names)
    lengths = {"values": n} | {key: len(column) for key, column in spread.items()}
    if len(set(lengths.values())) > 1 or len(units) != len(names):
        found = ", ".join(f"{key} {length}" for key, length in lengths.items())
        detail = f"{at or 'message'}: the columns differ in length: {found}, channels {len(names)}, units {len(units)}"
        raise _Refused(RejectReason.LENGTH_MISMATCH, detail, n)
    rows.sent_us = _sent(message, at) or rows.sent_us
    backfill = _backfill(message)
    for r in range(n):
        try:
            ix = _index(spread["ix"][r], len(names), f"{at}.ix[{r}]")
            ts_us = _stamp(spread["ts"][r], f"{at}.ts[{r}]", 1)
            quality = _flag(spread["quality"][r], f"{at}.quality[{r}]") | backfill
            _row(rows, (names[ix], units[ix]), ts_us, values[r], quality, f"{at}.values[{r}]")
        except _Refused as refused:
            rows.rejects.append(refused.reject)


def _waveform(rows: _Rows, message: dict[str, Any], at: str) -> None:
    values = _list(message, "values", at)
    n = len(values)
    if not n:
        raise _Refused(RejectReason.EMPTY, f"{at}.values: holds no sample")
    period_ms: Any = message.get("period")
    if not _is_number(period_ms) or not _PERIODS_MS[0] <= period_ms <= _PERIODS_MS[1]:
        raise _Refused(RejectReason.MALFORMED, f"{at}.period: {period_ms!r}; give the sample period in ms", n)
    t0_us = _stamp(message["t0"], f"{at}.t0", n)
    quality = _flag(message.get("quality", 0), f"{at}.quality") | _backfill(message)
    bad = [r for r, v in enumerate(values) if not _is_number(v) or not abs(v) <= _MAX_FLOAT]
    if bad:
        raise _Refused(RejectReason.NOT_FINITE, f"{at}.values[{bad[0]}]: {values[bad[0]]!r} is no finite number", n)
    name = _name(message.get("channel"), f"{at}.channel")
    rows.sent_us = _sent(message, at) or rows.sent_us
    ix = rows.name(name, _unit(message.get("unit"), f"{at}.unit"))
    rows.blocks.append((ix, t0_us, 1000.0 / period_ms, np.array(values, np.float64), quality))


def _row(rows: _Rows, name: tuple[Any, Any], ts_us: int, value: Any, quality: int, at: str) -> None:  # noqa: ANN401, PLR0913, PLR0917
    """Take one value, or note why not."""
    try:
        key = rows.name(_name(name[0], at), _unit(name[1], at))
        number = _number(value, at)
    except _Refused as refused:
        rows.rejects.append(refused.reject)
        return
    missing = math.isnan(number)
    rows.ix.append(key)
    rows.ts_us.append(ts_us)
    rows.value.append(number)
    rows.quality.append((quality & BACKFILL) | Quality.MISSING if missing else quality)


def _number(value: Any, at: str) -> float:  # noqa: ANN401
    """A value as float: true and false are 1 and 0, null is NaN (missing)."""
    if value is None:
        return math.nan
    if not isinstance(value, (int, float)):
        raise _Refused(RejectReason.MALFORMED, f"{at}: expected a number, found {_kind(value)}")
    if not abs(value) <= _MAX_FLOAT:
        raise _Refused(RejectReason.NOT_FINITE, f"{at}: {value!r} is no finite number; send null for a missing value")
    return float(value)


def _stamp(stamp: Any, at: str, n_readings: int) -> int:  # noqa: ANN401
    """A time as µs since 1970 UTC: from ms as a number, or RFC 3339 with a zone."""
    if isinstance(stamp, str):
        try:
            time = datetime.fromisoformat(stamp)
        except ValueError:
            raise _Refused(RejectReason.MALFORMED, f"{at}: {stamp!r} is no RFC 3339 time", n_readings) from None
        if time.tzinfo is None:
            raise _Refused(RejectReason.MALFORMED, f"{at}: {stamp!r} names no zone; add Z or +08:00", n_readings)
        return round(time.timestamp() * 1e6)
    if not _is_number(stamp) or not abs(stamp) <= _MAX_TS_MS:
        raise _Refused(RejectReason.MALFORMED, f"{at}: {stamp!r} is no time; give ms since 1970 UTC", n_readings)
    return stamp * 1000 if isinstance(stamp, int) else round(stamp * 1000)


def _index(ix: Any, n: int, at: str) -> int:  # noqa: ANN401
    if _is_number(ix) and 0 <= ix < n and ix == int(ix):
        return int(ix)
    raise _Refused(RejectReason.MALFORMED, f"{at}: {ix!r} is no index into channels")


def _flag(flag: Any, at: str) -> int:  # noqa: ANN401
    if isinstance(flag, str) and flag.lower() in _QUALITY:
        return _QUALITY[flag.lower()]
    if _is_number(flag) and 0 <= flag <= Quality.MISSING and flag == int(flag):
        return int(flag)
    raise _Refused(RejectReason.MALFORMED, f"{at}: {flag!r} is none of 0–9 or {', '.join(_QUALITY)}")


def _backfill(message: dict[str, Any]) -> int:
    return BACKFILL if message.get("backfill") is True else 0


def _sent(message: dict[str, Any], at: str) -> int:
    sent = message.get("sent")
    return 0 if sent is None else _stamp(sent, f"{at}.sent", 1)


def _name(name: Any, at: str) -> str:  # noqa: ANN401
    if not isinstance(name, str) or not name or "\0" in name:
        raise _Refused(RejectReason.MALFORMED, f"{at}: {name!r} is no channel name")
    return name


def _units(message: dict[str, Any]) -> Any:  # noqa: ANN401
    """Units by name or place, or one of all."""
    units = message.get("units")
    return message.get("unit") if units is None else units


def _unit(unit: Any, at: str) -> str | None:  # noqa: ANN401
    if unit is None or isinstance(unit, str):
        return unit or None
    raise _Refused(RejectReason.MALFORMED, f"{at}: unit {unit!r} is no text")


def _list(message: dict[str, Any], key: str, at: str) -> list[Any]:
    found = message.get(key)
    if not isinstance(found, list):
        raise _Refused(RejectReason.MALFORMED, f"{at}.{key}: expected a list, found {_kind(found)}")
    return found


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(value: Any) -> str:  # noqa: ANN401
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")
