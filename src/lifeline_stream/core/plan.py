"""Declarations compiled to arrays: which detector watches which channel, and what each reading must wait for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.catalog import Adjacency, Asset, Catalog, Channel, Device, District
from lifeline_stream.core.kernels import INSTANCE, absence, flat, gate, ladder, rate
from lifeline_stream.core.model import Int32s
from lifeline_stream.core.packs import MAX_NEEDS, AnyDetector, Ladder, Pack, Sensor

KINDS: dict[str, ModuleType] = {"threshold": ladder, "rate": rate, "flat": flat, "absence": absence}
"""Kind of detector → its family of kernels."""


class Watch(NamedTuple):
    """One detector on one channel."""

    channel: Channel
    sensor: Sensor
    detector: AnyDetector
    pack_hash: str


@dataclass(slots=True)
class Stage:
    """All detectors of one kind, in order of channel and of their place in the pack.

    Attributes:
        start: int32[n_ix + 1], first instance of a channel.
        table: INSTANCE[m].
        params: PARAMS[d] of the family.
        watches: m detectors on channels.
    """

    family: ModuleType
    start: Int32s
    table: npt.NDArray[Any]
    params: npt.NDArray[Any]
    watches: list[Watch]

    def keys(self) -> list[tuple[str, str, str]]:
        """Per instance what its state belongs to: channel, detector, hash of the fields that shape the state."""
        return [(w.channel.id, w.detector.id, shape_of(w.detector)) for w in self.watches]


@dataclass(slots=True)
class Gate:
    """The needs of all detectors; see `kernels.gate`."""

    dependent_of: Int32s
    dependents: npt.NDArray[Any]
    need_start: Int32s
    need_rows: Int32s
    needs: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What an engine runs.

    Attributes:
        hash: of packs and catalog together; stored with every commit group.
    """

    catalog: Catalog
    packs: tuple[Pack, ...]
    stages: dict[str, Stage]
    gate: Gate
    hash: str


def compile_plan(catalog: Catalog, packs: Sequence[Pack], *, event_time: bool = False) -> Plan:
    """Compile packs over a catalog.

    Args:
        catalog: the channels; those whose sensor type no pack declares are stored and not watched.
        packs: one per domain.
        event_time: the clock is the greatest time seen, so a silence shows in the next reading of the channel.
    """
    watches = list(_watches(catalog, packs))
    bits = _need_bits(watches)
    stages = {kind: _stage(kind, watches, bits, catalog.n_ix) for kind in KINDS}
    stages["absence"].params["event_time"] = event_time
    return Plan(catalog, tuple(packs), stages, _gate(watches, bits, catalog, packs), plan_hash(catalog, packs))


def _watches(catalog: Catalog, packs: Sequence[Pack]) -> Iterator[Watch]:
    on_sensor: dict[str, list[tuple[Sensor, AnyDetector, str]]] = {}
    for pack in packs:
        digest = pack_hash(pack)
        for detector in pack.detector:
            for sensor in pack.sensors_of(detector):
                on_sensor.setdefault(f"{pack.domain.id}.{sensor.id}", []).append((sensor, detector, digest))
    for channel in catalog.channels:
        for sensor, detector, digest in on_sensor.get(channel.sensor, ()):
            yield Watch(channel, sensor, detector, digest)


Need = tuple[str, str]
"""A companion sensor and the state it must, or must not, be in."""


def _need_bits(watches: Iterable[Watch]) -> dict[int, dict[Need, int]]:
    """Per channel the bit of every need (companion, state) that one of its detectors has."""
    bits: dict[int, dict[Need, int]] = {}
    for watch in watches:
        mine = bits.setdefault(watch.channel.ix, {}) if watch.detector.needs else {}
        for need in watch.detector.needs.items():
            if need not in mine:
                if len(mine) == MAX_NEEDS:
                    raise ValueError(f"{watch.detector.id}: more than {MAX_NEEDS} needs on channel {watch.channel.id}")
                mine[need] = 1 << len(mine)
    return bits


def _stage(kind: str, watches: Iterable[Watch], bits: dict[int, dict[Need, int]], n_ix: int) -> Stage:
    family = KINDS[kind]
    mine = [watch for watch in watches if watch.detector.kind == kind]
    rows: dict[str, int] = {}
    params: list[npt.NDArray[Any]] = []
    table = np.zeros(len(mine), INSTANCE)
    for i, watch in enumerate(mine):
        if watch.detector.id not in rows:
            rows[watch.detector.id] = len(params)
            params.append(family.params_of(watch.detector))
        needs = sum(bits[watch.channel.ix][need] for need in watch.detector.needs.items())
        over_range = watch.sensor.over_range == "alarm"
        table[i] = (watch.channel.ix, rows[watch.detector.id], round(watch.channel.every_s * 1e6), needs, over_range)
    start = np.searchsorted(table["channel"], np.arange(n_ix + 1)).astype(np.int32)
    return Stage(family, start, table, np.concatenate(params) if params else np.zeros(0, family.PARAMS), mine)


def _gate(
    watches: Sequence[Watch], bits: dict[int, dict[Need, int]], catalog: Catalog, packs: Sequence[Pack]
) -> Gate:  # fmt: skip
    find = _companions(catalog)
    sensors = {(p.domain.id, s.id): s for p in packs for s in p.sensor}
    by_channel: dict[int, list[Watch]] = {}
    for watch in watches:
        if watch.channel.ix in bits:
            by_channel.setdefault(watch.channel.ix, []).append(watch)
    needs: list[tuple[int, int, int, int, float, float]] = []
    dependents: list[tuple[int, int, int, float, float, float]] = []
    for ix, mine in by_channel.items():
        first, channel = len(needs), mine[0].channel
        for (companion, state), bit in bits[ix].items():
            sensor = sensors.get((channel.domain, companion))
            other = find(channel, f"{channel.domain}.{companion}")
            if other is not None and sensor is not None:
                bounds = sensor.states[state.removeprefix("not ")]
                above = np.inf if bounds.above is None else bounds.above
                below = -np.inf if bounds.below is None else bounds.below
                needs.append((other.ix, len(dependents), bit, state.startswith("not "), above, below))
        if len(needs) > first:
            hold_us = round(max(w.detector.hold_s for w in mine) * 1e6)
            dependents.append((ix, first, len(needs), hold_us, *_red(mine)))
    return _gate_arrays(dependents, needs, catalog.n_ix)


def _companions(catalog: Catalog) -> Callable[[Channel, str], Channel | None]:
    """Find a sensor beside a channel: on the same device, else on the same asset."""
    on_device: dict[tuple[str, str], Channel] = {}
    on_asset: dict[tuple[str, str], Channel] = {}
    for channel in catalog.channels:
        on_device.setdefault((channel.device, channel.sensor), channel)
        if channel.asset:
            on_asset.setdefault((channel.asset, channel.sensor), channel)
    return lambda channel, sensor: on_device.get((channel.device, sensor)) or on_asset.get((channel.asset, sensor))


def _red(watches: Sequence[Watch]) -> tuple[float, float]:
    """The nearest red limits of a channel's ladders on the reading itself; NaN where there is none."""
    ladders = [w.detector for w in watches if isinstance(w.detector, Ladder) and w.detector.kind == "threshold"]
    above = [d.above.red for d in ladders if d.above.red is not None]
    below = [d.below.red for d in ladders if d.below.red is not None]
    return min(above, default=np.nan), max(below, default=np.nan)


def _gate_arrays(dependents: list[Any], needs: list[Any], n_ix: int) -> Gate:
    dependent_of = np.full(n_ix, -1, np.int32)
    dependent_rows = np.array(dependents, gate.DEPENDENT) if dependents else np.zeros(0, gate.DEPENDENT)
    dependent_of[dependent_rows["channel"]] = np.arange(len(dependents), dtype=np.int32)
    need_rows = np.array(needs, gate.NEED) if needs else np.zeros(0, gate.NEED)
    order = np.argsort(need_rows["companion"], kind="stable").astype(np.int32)
    start = np.searchsorted(need_rows["companion"][order], np.arange(n_ix + 1)).astype(np.int32)
    return Gate(dependent_of, dependent_rows, start, order, need_rows)


def shape_of(detector: AnyDetector) -> str:
    """Hash of the fields that give a detector's state its meaning; one that leaves its trial begins to tell anew."""
    names = {*detector.shaping, "status"} - {"sensor"}
    return _digest({name: getattr(detector, name) for name in names})


def pack_hash(pack: Pack) -> str:
    """Hash of a pack's content, stored with the alarms that it raised."""
    return _digest(pack.model_dump(mode="json", by_alias=True))


def plan_hash(catalog: Catalog, packs: Sequence[Pack]) -> str:
    """Hash of everything that decides what an engine does."""
    return blake2b(dump(catalog, packs), digest_size=10).hexdigest()


def _digest(content: object) -> str:
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=10).hexdigest()


def dump(catalog: Catalog, packs: Sequence[Pack]) -> bytes:
    """Packs and catalog as JSON, to be stored under their hash."""
    city = {
        "channels": [list(asdict(c).values()) for c in catalog.channels],
        **{name: [list(row) for row in getattr(catalog, name)] for name in ROWS},
    }
    packs_json = [pack.model_dump(mode="json", by_alias=True) for pack in packs]
    return json.dumps({"packs": packs_json, "city": city}, ensure_ascii=False).encode()


ROWS: dict[str, type[Any]] = {"districts": District, "assets": Asset, "devices": Device, "adjacency": Adjacency}


def load(body: bytes) -> tuple[Catalog, list[Pack]]:
    """The reverse of `dump`."""
    stored = json.loads(body)
    city = stored["city"]
    rows = {name: tuple(kind(*row) for row in city[name]) for name, kind in ROWS.items()}
    rows["assets"] = tuple(asset._replace(districts=tuple(asset.districts)) for asset in rows["assets"])
    catalog = Catalog(tuple(Channel(*row) for row in city["channels"]), **rows)
    return catalog, [Pack.model_validate(pack) for pack in stored["packs"]]
