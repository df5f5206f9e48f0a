"""Normalisation: decoded rows become canonical readings, or rejects that say why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.catalog import Catalog, Channel
from lifeline_stream.core.kernels import arrival, convert
from lifeline_stream.core.model import (
    BACKFILL,
    LATE,
    RESTARTED,
    Block,
    Decoded,
    Float64s,
    ReadingBatch,
    Reject,
    RejectReason,
    UInt8s,
)
from lifeline_stream.core.packs import Pack, Sensor
from lifeline_stream.core.units import UnitError

GATEWAY_LAG_UNKNOWN = -(2**31)
"""`gateway_lag_ms` where the gateway did not say when it sent."""
_LARGEST_LAG_MS = 2**31 - 1
MOST_REJECTS = 20
"""Rejects of one reason that one message can make."""


class Normalized(NamedTuple):
    """One message after normalisation.

    Attributes:
        batch: readings in time order, late ones marked.
        gateway_lag_ms: int32[n], gateway's time of sending less event time; `GATEWAY_LAG_UNKNOWN` where not stated.
        blocks: waveforms.
        rejects: what was refused.
        n_duplicates: readings equal to the newest of their channel.
        n_restarted: channels whose newest was set back after their clock had been ahead.
        in_doubt: a reading counts towards such a restart: the message must be the first of its commit group.
    """

    batch: ReadingBatch
    gateway_lag_ms: npt.NDArray[np.int32]
    blocks: list[Block]
    rejects: list[Reject]
    n_duplicates: int
    n_restarted: int
    in_doubt: bool


@dataclass(frozen=True, slots=True)
class _Name:
    """A channel name that a gateway uses, resolved; `ix` is -1 when it is refused."""

    ix: int
    scale: float
    offset: float
    low: float
    high: float
    reject: Reject | None = None


class _Names(NamedTuple):
    """The names of one message: those that were refused, and NAME[k] for the kernel."""

    rejects: list[Reject | None]
    table: npt.NDArray[Any]


_MOST_LISTS = 8192
"""Lists of names that are remembered; gateways send the same ones again and again."""

_ARRIVAL_REJECTS = (
    (arrival.CONFLICT, RejectReason.CONFLICT, "another value is stored for this time; the first one stays"),
    (arrival.FUTURE, RejectReason.CLOCK_FUTURE, "the time is more than 5 min ahead of received time; set the clock"),
    (arrival.PAST, RejectReason.CLOCK_PAST, "the time is before the year 2000; set the clock"),
)


class Normalizer:
    """Resolves names, converts units, orders by time and judges arrival; keeps each channel's newest reading."""

    def __init__(self, catalog: Catalog, packs: Sequence[Pack]) -> None:
        """Index the catalog by what gateways may say."""
        self._sensors: dict[str, Sensor] = {f"{p.domain.id}.{s.id}": s for p in packs for s in p.sensor}
        self._aliases = {p.domain.id: _aliases(p) for p in packs}
        self._devices: dict[str, dict[str, Channel]] = {}
        self._gateway_of: dict[str, str] = {}
        for channel in catalog.channels:
            names = self._devices.setdefault(channel.device, {})
            names[channel.code or channel.sensor] = channel
            self._gateway_of[channel.device] = channel.gateway
        self._channels = catalog.by_ix
        self._resolved: dict[tuple[str, str, str | None], _Name] = {}
        self._lists: dict[tuple[object, ...], _Names] = {}
        self._arrival = arrival.fresh(catalog.n_ix)

    def normalize(self, message: Decoded, gateway: str, device: str, received_us: int) -> Normalized:
        """Turn one decoded message into readings.

        Args:
            message: decoded rows; its own rejects are passed on.
            gateway: who published it, from the topic.
            device: device of the topic; names without a device belong to it.
            received_us: when the message was taken, µs since 1970 UTC.
        """
        names = self._names(gateway, device, message)
        rejects = list(message.rejects)
        batch, refused = self._rows(message, names)
        rejects += refused
        batch, judged = self._judge(batch, received_us)
        rejects += judged.rejects
        blocks = []
        for name_ix, t0_us, rate_hz, samples, quality in message.blocks:
            block, reject = self._block(names.table[name_ix], (t0_us, rate_hz, samples, quality), received_us)
            blocks += [block] if block else []
            rejects += [reject] if reject else []
        lag_ms = _lag_ms(message.sent_us, batch)
        return judged._replace(batch=batch, gateway_lag_ms=lag_ms, blocks=blocks, rejects=bounded(rejects))

    def arrive(self, batch: ReadingBatch, received_us: int) -> ReadingBatch:
        """Judge canonical readings that need no names or units: the new ones, in order, of a trace."""
        return self._judge(batch, received_us)[0]

    def observe(self, batch: ReadingBatch) -> None:
        """Take note of the stored readings of a group on recovery, without judging them; of each channel by time."""
        arrival.observe(batch.channel_ix, batch.ts_us, batch.value, batch.quality, self._arrival)

    def save(self) -> bytes:
        """What is known of the arrival of every channel's readings."""
        return self._arrival.tobytes()

    def restore(self, state: bytes) -> None:
        """Take up what `save` gave, for the channels that it had."""
        stored = np.frombuffer(state, arrival.STATE)
        n = min(len(stored), len(self._arrival))
        self._arrival[:n] = stored[:n]

    def newest_us(self) -> npt.NDArray[np.int64]:
        """int64[n_ix], newest event time of each channel, µs; -1 before the first."""
        newest: npt.NDArray[np.int64] = self._arrival["newest_us"]
        return newest

    def _names(self, gateway: str, device: str, message: Decoded) -> _Names:
        """Resolve a message's names; a list of which none is refused is kept."""
        key = (gateway, device, *message.names, *message.units)
        found = self._lists.get(key)
        if found is None:
            names = [self._name(gateway, device, n, u) for n, u in zip(message.names, message.units, strict=True)]
            rows = [(n.ix, n.scale, n.offset, n.low, n.high) for n in names]
            found = _Names([n.reject for n in names], np.array(rows, convert.NAME))
            if not any(found.rejects):
                if len(self._lists) >= _MOST_LISTS:
                    self._lists.clear()
                self._lists[key] = found
        return found

    def _name(self, gateway: str, device: str, name: str, unit: str | None) -> _Name:
        full = name if "/" in name else f"{device}/{name}"
        key = (gateway, full, unit)
        found = self._resolved.get(key)
        if found is None:
            found = self._resolve(gateway, full, unit)
            if found.reject is None:  # what is refused is not kept, so a stranger can't fill the memory
                self._resolved[key] = found
        return found

    def _resolve(self, gateway: str, name: str, unit: str | None) -> _Name:
        device, _, metric = name.partition("/")
        if device not in self._devices:
            return _refuse(RejectReason.UNKNOWN_CHANNEL, f"{name}: no device {device!r} in the registry; add it there")
        if self._gateway_of[device] != gateway:
            return _refuse(
                RejectReason.FOREIGN_DEVICE,
                f"{name}: device {device!r} belongs to another gateway than {gateway!r}; see devices.csv",
            )
        channel = self._find(device, metric)
        if channel is None:
            known = ", ".join(self._devices[device])
            return _refuse(
                RejectReason.UNKNOWN_CHANNEL,
                f"{name}: device {device!r} has no channel {metric!r}; it has {known}; see channels.csv",
            )
        return self._convert(channel, name, unit)

    def _find(self, device: str, metric: str) -> Channel | None:
        names = self._devices[device]
        if metric in names:
            return names[metric]
        domains = {channel.domain for channel in names.values()}
        sensors = (self._aliases[d].get(metric) for d in sorted(domains) if d in self._aliases)
        return next((names[s] for s in sensors if s in names), None)

    def _convert(self, channel: Channel, name: str, unit: str | None) -> _Name:
        sensor = self._sensors.get(channel.sensor)
        if sensor is None:
            return _Name(channel.ix, 1.0, 0.0, -np.inf, np.inf)
        try:
            factor = sensor.conversion(unit or channel.unit)
        except UnitError as error:
            return _refuse(RejectReason.FOREIGN_UNIT, f"{name}: {error}; {channel.sensor} is in {sensor.unit}")
        return _Name(channel.ix, factor.scale, factor.offset, *sensor.plausible)

    def _rows(self, message: Decoded, names: _Names) -> tuple[ReadingBatch, list[Reject]]:
        n = len(message.ts_us)
        if not n:
            return ReadingBatch.empty(), _named_rejects(names, np.zeros(0, np.int32))
        columns = (np.empty(n, np.int32), np.empty(n), np.empty(n, np.uint8))
        convert.convert(names.table, message.name_ix, message.value, message.quality, *columns)
        batch = ReadingBatch(columns[0], message.ts_us, *columns[1:])
        refused = []
        if any(names.rejects):
            known = batch.channel_ix >= 0
            refused = _named_rejects(names, message.name_ix[~known])
            batch = batch.take(known)
        if (batch.ts_us[1:] < batch.ts_us[:-1]).any():
            batch = batch.take(np.argsort(batch.ts_us, kind="stable"))
        return batch, refused

    def _judge(self, batch: ReadingBatch, received_us: int) -> tuple[ReadingBatch, Normalized]:
        verdict = np.zeros(len(batch), np.uint8)
        columns = (batch.channel_ix, batch.ts_us, batch.value, batch.quality)
        n_restarted = arrival.classify(*columns, received_us, self._arrival, verdict) if len(batch) else 0
        none = Normalized(batch, _NO_LAG, [], [], 0, int(n_restarted), in_doubt=False)
        if not verdict.any():
            return batch, none
        batch.quality[(verdict == arrival.LATE) | (verdict == arrival.DOUBT)] |= LATE
        batch.quality[(verdict == arrival.AGAIN) | (verdict == arrival.DOUBT)] |= RESTARTED
        rejects = [
            Reject(reason, f"{self._channels[ix].id}: {text}", n_readings=n)
            for code, reason, text in _ARRIVAL_REJECTS
            for ix, n in _counted(batch.channel_ix[verdict == code])
        ]
        kept = batch.take(verdict <= arrival.DOUBT)
        n_duplicates = int((verdict == arrival.DUPLICATE).sum())
        in_doubt = bool((verdict == arrival.DOUBT).any())
        return kept, none._replace(rejects=rejects, n_duplicates=n_duplicates, in_doubt=in_doubt)

    def _block(
        self, name: np.void, block: tuple[int, float, Any, int], received_us: int
    ) -> tuple[Block | None, Reject | None]:
        t0_us, rate_hz, samples, quality = block
        ix = int(name["ix"])
        if ix < 0:
            return None, None  # reported once, by name
        with np.errstate(over="ignore"):
            values = (np.asarray(samples) * name["scale"] + name["offset"]).astype(np.float32)
        if not np.isfinite(values).all():
            detail = f"{self._channels[ix].id}: a sample is beyond what a waveform can hold"
            return None, Reject(RejectReason.NOT_FINITE, detail, n_readings=len(values))
        taken = Block(ix, t0_us, rate_hz, values, quality)
        last = taken.as_readings().take(slice(-1, None))
        if t0_us <= self._arrival["newest_us"][ix]:  # it overlaps with what came: late as a whole, as a backfill is
            last.quality[:] |= BACKFILL
        kept, judged = self._judge(last, received_us)
        if judged.rejects:
            return None, replace(judged.rejects[0], n_readings=len(values))
        return replace(taken, quality=quality | (int(kept.quality[0]) & (LATE | RESTARTED))), None


_NO_LAG = np.zeros(0, np.int32)


def flagged(value: Float64s, quality: UInt8s, low: Float64s, high: Float64s) -> UInt8s:
    """Flag what lies outside the plausible range, where the gateway itself gave no bad flag.

    Args:
        value: float64[n], canonical unit.
        quality: uint8[n], with arrival bits; not changed.
        low: float64[n], lower end of the plausible range; a value below it is `BAD`.
        high: float64[n], upper end; a value above it is `OVER_RANGE`.
    """
    out = np.empty(len(value), np.uint8)
    convert.flag_all(value, quality, low, high, out)
    return out


def _aliases(pack: Pack) -> dict[str, str]:
    """Every name of a pack's sensor types → `domain.sensor`."""
    return {name: f"{pack.domain.id}.{s.id}" for s in pack.sensor for name in (s.id, *s.aliases)}


def _refuse(reason: RejectReason, detail: str) -> _Name:
    return _Name(-1, 1.0, 0.0, -np.inf, np.inf, Reject(reason, detail))


def _named_rejects(names: _Names, used: npt.NDArray[np.int32]) -> list[Reject]:
    """One reject per refused name, counting the readings that it stood for."""
    counts = np.bincount(used, minlength=len(names.rejects))
    return [
        Reject(reject.reason, reject.detail, n_readings=max(1, int(count)))
        for reject, count in zip(names.rejects, counts, strict=True)
        if reject is not None
    ]


def _counted(ix: npt.NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Each channel and how often it is there."""
    found, counts = np.unique(ix, return_counts=True)
    return zip(found.tolist(), counts.tolist(), strict=True)


def bounded(rejects: list[Reject]) -> list[Reject]:
    """The first rejects of each reason one by one, and the rest of it as one: each is stored with the whole message."""
    if len(rejects) <= MOST_REJECTS:
        return rejects
    kept: list[Reject] = []
    of_reason = Counter[RejectReason]()
    n_rest = Counter[RejectReason]()
    for reject in rejects:
        of_reason[reject.reason] += 1
        if of_reason[reject.reason] <= MOST_REJECTS:
            kept.append(reject)
        else:
            n_rest[reject.reason] += reject.n_readings
    return kept + [Reject(reason, "and more of the same message", n_readings=n) for reason, n in n_rest.items()]


def _lag_ms(sent_us: int, batch: ReadingBatch) -> npt.NDArray[np.int32]:
    if not sent_us:
        return np.full(len(batch), GATEWAY_LAG_UNKNOWN, np.int32)
    lag = (sent_us - batch.ts_us) // 1000
    return np.clip(lag, -_LARGEST_LAG_MS, _LARGEST_LAG_MS).astype(np.int32)
