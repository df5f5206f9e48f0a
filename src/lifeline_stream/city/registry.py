"""The registry of a city as CSV files: districts, assets, devices, channels and adjacency."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lifeline_stream.core.catalog import Adjacency, Asset, Catalog, Channel, Device, District
from lifeline_stream.core.packs import Pack, Sensor
from lifeline_stream.core.units import UnitError
from lifeline_stream.errors import ConfigError, Problem

COLUMNS = {
    "districts": ("district_id", "name", "kind", "parent"),
    "assets": ("asset_id", "name", "domain", "kind", "districts", "owner", "lon", "lat", "risk"),
    "devices": ("device_id", "gateway_id", "asset_id", "model"),
    "channels": ("channel_id", "device_id", "sensor", "code", "unit", "every_s"),
    "adjacency": ("from_asset", "to_asset", "relation", "distance_m"),
}
"""The files and their columns, in order."""

DISTRICT_KINDS = ("city", "county")
RISKS = ("low", "medium", "high", "very_high")


class Row(NamedTuple):
    """One line of a file."""

    line: int
    cells: dict[str, str]


@dataclass(slots=True)
class _Reader:
    folder: Path
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, table: str, row_id: str, path: str, text: str) -> None:
        self.problems.append(Problem(str(self.folder / f"{table}.csv"), row_id, path, text))

    def rows(self, table: str) -> Iterator[Row]:
        """Lines of a file whose header is right and whose ids are not repeated."""
        columns = COLUMNS[table]
        seen: set[str] = set()
        for row in self._lines(table, columns):
            key = row.cells[columns[0]]
            if table == "adjacency":
                yield row
            elif not key:
                self.wrong(table, f"line {row.line}", columns[0], "must not be empty")
            elif key in seen:
                self.wrong(table, key, columns[0], f"line {row.line} repeats this id; ids are unique in the city")
            else:
                seen.add(key)
                yield row

    def _lines(self, table: str, columns: tuple[str, ...]) -> Iterator[Row]:
        path = self.folder / f"{table}.csv"
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = csv.reader(file)
                header = tuple(next(lines, []))
                if header != columns:
                    self.wrong(table, "", "line 1", f"the header must be {','.join(columns)}; found {','.join(header)}")
                    return
                for cells in lines:
                    if len(cells) == len(columns):
                        yield Row(lines.line_num, dict(zip(columns, map(str.strip, cells), strict=True)))
                    elif cells:
                        text = f"{len(cells)} cells, expected {len(columns)}"
                        self.wrong(table, "", f"line {lines.line_num}", text)
        except FileNotFoundError:
            self.wrong(table, "", "", "this file is missing; it may hold its header only")
        except (OSError, csv.Error) as error:
            self.wrong(table, "", "", f"can't be read: {error}")
        except UnicodeDecodeError as error:
            self.wrong(table, "", "", f"not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8")

    def number(self, table: str, row_id: str, name: str, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
        self.wrong(table, row_id, name, f"{text!r} is not a number")
        return math.nan

    def one_of(self, table: str, row_id: str, name: str, text: str, known: Sequence[str]) -> None:
        if text not in known:
            self.wrong(table, row_id, name, f"{text!r} is not one of {', '.join(known)}")


def read_registry(folder: Path, packs: Sequence[Pack]) -> tuple[Catalog, list[Problem]]:
    """Read a city; channels are indexed in the order of their file.

    Args:
        folder: holds the five CSV files.
        packs: sensor types that channels may have.

    Returns:
        The catalog of what could be read, and every problem of every file.
    """
    reader = _Reader(folder)
    districts = _districts(reader)
    assets = _assets(reader, {d.district_id for d in districts}, [p.domain.id for p in packs])
    devices = _devices(reader, {a.asset_id for a in assets})
    kinds = {d.district_id: d.kind for d in districts}
    channels = _channels(reader, assets, devices, kinds, packs)
    adjacency = _adjacency(reader, {a.asset_id for a in assets})
    _same_name_twice(reader, channels)
    return Catalog(channels, districts, assets, devices, adjacency), reader.problems


def load_registry(folder: Path, packs: Sequence[Pack]) -> Catalog:
    """The same for a program that needs it right.

    Raises:
        ConfigError: with every problem.
    """
    catalog, problems = read_registry(folder, packs)
    if problems:
        raise ConfigError(problems)
    return catalog


def _districts(reader: _Reader) -> tuple[District, ...]:
    districts = tuple(District(**row.cells) for row in reader.rows("districts"))
    known = {d.district_id for d in districts}
    for d in districts:
        reader.one_of("districts", d.district_id, "kind", d.kind, DISTRICT_KINDS)
        if d.parent and d.parent not in known:
            reader.wrong("districts", d.district_id, "parent", f"no district {d.parent!r}")
    return districts


def _assets(reader: _Reader, districts: set[str], domains: list[str]) -> tuple[Asset, ...]:
    assets = []
    for row in reader.rows("assets"):
        c = row.cells
        key = c["asset_id"]
        where = tuple(filter(None, (d.strip() for d in c["districts"].split(";"))))
        for district in where:
            if district not in districts:
                reader.wrong("assets", key, "districts", f"no district {district!r} in districts.csv")
        reader.one_of("assets", key, "domain", c["domain"], domains)
        reader.one_of("assets", key, "risk", c["risk"], RISKS)
        lon, lat = (reader.number("assets", key, name, c[name]) for name in ("lon", "lat"))
        assets.append(Asset(key, c["name"], c["domain"], c["kind"], where, c["owner"], lon, lat, c["risk"]))
    return tuple(assets)


def _devices(reader: _Reader, assets: set[str]) -> tuple[Device, ...]:
    devices = []
    for row in reader.rows("devices"):
        device = Device(**row.cells)
        if device.asset_id not in assets:
            reader.wrong("devices", device.device_id, "asset_id", f"no asset {device.asset_id!r} in assets.csv")
        for name in ("device_id", "gateway_id"):
            if not getattr(device, name) or set(getattr(device, name)) & set("/+#"):
                reader.wrong(
                    "devices", device.device_id, name, "must be given, without '/', '+' and '#': it is part of a topic"
                )
        devices.append(device)
    return tuple(devices)


def _channels(
    reader: _Reader,
    assets: Sequence[Asset],
    devices: Sequence[Device],
    kinds: dict[str, str],
    packs: Sequence[Pack],
) -> tuple[Channel, ...]:
    sensors = {f"{p.domain.id}.{s.id}": s for p in packs for s in p.sensor}
    asset_of = {a.asset_id: a for a in assets}
    device_of = {d.device_id: d for d in devices}
    channels: list[Channel] = []
    for row in reader.rows("channels"):
        c = row.cells
        key = c["channel_id"]
        device = device_of.get(c["device_id"])
        if device is None:
            reader.wrong("channels", key, "device_id", f"no device {c['device_id']!r} in devices.csv")
            continue
        asset = asset_of.get(device.asset_id)
        if asset is None and "." not in c["sensor"]:
            continue  # of which domain it is, only the asset would say; that it is missing was said
        name = c["sensor"] if "." in c["sensor"] or asset is None else f"{asset.domain}.{c['sensor']}"
        sensor = sensors.get(name)
        if sensor is None:
            reader.wrong("channels", key, "sensor", f"no pack declares a sensor {name!r}")
            continue
        _check_unit(reader, key, c["unit"], sensor)
        every_s = reader.number("channels", key, "every_s", c["every_s"]) if c["every_s"] else sensor.every_s
        if every_s <= 0:
            reader.wrong("channels", key, "every_s", "must be above 0")
            every_s = sensor.every_s
        county = next((d for d in asset.districts if kinds.get(d) == "county"), "") if asset else ""
        where = (device.device_id, device.gateway_id, device.asset_id, county)
        domain = name.partition(".")[0]
        channels.append(Channel(key, len(channels), *where, domain, name, c["code"], c["unit"], every_s))
    return tuple(channels)


def _check_unit(reader: _Reader, channel: str, unit: str, sensor: Sensor) -> None:
    try:
        sensor.conversion(unit)
    except UnitError as error:
        reader.wrong("channels", channel, "unit", str(error))


def _adjacency(reader: _Reader, assets: set[str]) -> tuple[Adjacency, ...]:
    edges = []
    for row in reader.rows("adjacency"):
        c = row.cells
        key = f"line {row.line}"
        for name in ("from_asset", "to_asset"):
            if c[name] not in assets:
                reader.wrong("adjacency", key, name, f"no asset {c[name]!r} in assets.csv")
        edges.append(
            Adjacency(
                c["from_asset"],
                c["to_asset"],
                c["relation"],
                reader.number("adjacency", key, "distance_m", c["distance_m"]),
            )
        )
    return tuple(edges)


_NAME_OF: Callable[[Channel], tuple[str, str]] = lambda c: (c.device, c.code or c.sensor)  # noqa: E731


def _same_name_twice(reader: _Reader, channels: Sequence[Channel]) -> None:
    owner: dict[tuple[str, str], str] = {}
    for channel in channels:
        first = owner.setdefault(_NAME_OF(channel), channel.id)
        if first != channel.id:
            text = (
                f"device {channel.device!r} already has {_NAME_OF(channel)[1]!r} as {first!r}; give each its own code"
            )
            reader.wrong("channels", channel.id, "code", text)
