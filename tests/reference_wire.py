"""Slow, obvious scalar twins of arrival, decoding, normalising and encoding, one reading at a time in plain Python."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lifeline_stream.core.catalog import Catalog, Channel
from lifeline_stream.core.model import Quality
from lifeline_stream.core.packs import Pack
from lifeline_stream.core.units import conversion, parse_unit
from reference import NAN, Reading

ROW = struct.Struct(">hiiiqidihiiiq")
"""A row of the table of readings in binary COPY."""


@dataclass
class ArrivalTwin:
    """What is known of one channel's arrival."""

    newest_us: int = -1
    value: float = 0.0
    top_us: int = -1
    run: list[int] = field(default_factory=list)

    def judge(self, ts_us: int, value: float, received_us: int, *, backfill: bool = False) -> str:  # noqa: PLR0911
        """One of new, again, late, doubt, duplicate, conflict, clock_future, clock_past."""
        if ts_us < 946_684_800_000_000:
            return "clock_past"
        if ts_us > received_us + 300_000_000:
            return "clock_future"
        if backfill:
            return "late"
        if ts_us > self.newest_us:
            fresh = ts_us > self.top_us
            self.newest_us, self.value, self.top_us, self.run = ts_us, value, max(self.top_us, ts_us), []
            return "new" if fresh else "again"
        if ts_us == self.newest_us:
            same = value == self.value or (math.isnan(value) and math.isnan(self.value))
            return "duplicate" if same else "conflict"
        if 2 * abs(received_us - ts_us) >= self.newest_us - received_us:
            return "late"
        self.run = [*self.run, ts_us] if self.run and ts_us > self.run[-1] else [ts_us]
        if len(self.run) == 3:
            self.newest_us, self.value, self.run = ts_us, value, []
        return "doubt"


class Named(NamedTuple):
    """One decoded reading, its channel not resolved yet."""

    name: str
    unit: str | None
    ts_us: int
    value: float
    quality: int


def decode(payload: bytes) -> list[Named]:
    """A valid message of any form without waveforms, as an object per reading."""
    message = json.loads(payload)
    found: list[Named] = []
    for part in message if isinstance(message, list) else [message]:
        quality = part.get("quality", 0)
        if "channels" in part:
            n, names = len(part["values"]), part["channels"]
            units = part.get("units") or [None] * len(names)
            rows = zip(
                part.get("ix") or range(n), spread(part["ts"], n), part["values"], spread(quality, n), strict=True
            )
            cells = [(names[ix], units[ix], ts, value, flag) for ix, ts, value, flag in rows]
        else:
            unit = part.get("unit")
            cells = [(name, unit, part["ts"], value, quality) for name, value in part["values"].items()]
        for name, unit, ts, value, flag in cells:
            missing = value is None
            flags = (Quality.MISSING if missing else flag) | (0x80 if part.get("backfill") else 0)
            found.append(Named(name, unit, ts * 1000, NAN if missing else float(value), flags))
    return found


def spread(cell: Any, n: int) -> list[Any]:
    return cell if isinstance(cell, list) else [cell] * n


class ReferenceNormalizer:
    """Name, unit, range and arrival of one reading after the other."""

    def __init__(self, catalog: Catalog, packs: Sequence[Pack]) -> None:
        self.sensors = {f"{p.domain.id}.{s.id}": s for p in packs for s in p.sensor}
        self.names: dict[tuple[str, str], Channel] = {}
        for channel in catalog.channels:
            sensor = self.sensors[channel.sensor]
            for name in [channel.code] if channel.code else [channel.sensor, sensor.id, *sensor.aliases]:
                self.names[channel.device, name] = channel
        self.arrival = {channel.ix: ArrivalTwin() for channel in catalog.channels}

    def take(self, named: Named, gateway: str, device: str, received_us: int) -> tuple[Reading, str]:
        """The canonical reading, and what its arrival is judged to be; a KeyError for a stranger."""
        owner, _, metric = named.name.rpartition("/")
        channel = self.names[owner or device, metric]
        if channel.gateway != gateway:
            raise KeyError(gateway)
        sensor = self.sensors[channel.sensor]
        value = named.value
        unit = named.unit or channel.unit
        if unit:
            gas = sensor.substance
            convert = conversion(
                parse_unit(unit),
                sensor.unit,
                molar_mass_g_per_mol=gas.molar_mass_g_per_mol,
                lel_percent_vol=gas.lel_percent_vol,
                temperature_c=gas.reference_temperature_c,
            )
            value = value * convert.scale + convert.offset
        flag = named.quality & 0x0F
        if flag in (Quality.GOOD, Quality.SUSPECT, Quality.MANUAL):
            flag = Quality.OVER_RANGE if value > sensor.plausible[1] else flag
            flag = Quality.BAD if value < sensor.plausible[0] else flag
        backfill = named.quality & 0x80
        verdict = self.arrival[channel.ix].judge(named.ts_us, value, received_us, backfill=bool(backfill))
        arrived = {"late": 0x40, "again": 0x20, "doubt": 0x60}.get(verdict, 0)
        return Reading(channel.ix, named.ts_us, value, int(flag) | backfill | arrived), verdict


def encode(readings: Iterable[Reading], group_seq: int) -> bytes:
    """Rows of the table of readings in PostgreSQL's binary COPY, one `struct.pack` each, lag unknown."""
    rows = [b"PGCOPY\n\xff\r\n\0" + bytes(8)]
    for r in readings:
        ts = r.ts_us - 946_684_800_000_000
        lag_ms = -(2**31)
        rows.append(ROW.pack(6, 4, r.channel, 8, ts, 8, r.value, 2, r.quality, 4, lag_ms, 8, group_seq))
    rows.append(b"\xff\xff")
    return b"".join(rows)
