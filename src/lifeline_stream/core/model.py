"""The values that flow: reading batches, waveform blocks, rejects and condition events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from hashlib import blake2b
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

Int32s: TypeAlias = npt.NDArray[np.int32]
Int64s: TypeAlias = npt.NDArray[np.int64]
Float32s: TypeAlias = npt.NDArray[np.float32]
Float64s: TypeAlias = npt.NDArray[np.float64]
UInt8s: TypeAlias = npt.NDArray[np.uint8]
Bools: TypeAlias = npt.NDArray[np.bool_]


class Quality(IntEnum):
    """What a reading is worth 数据质量; the low four bits of the quality byte."""

    GOOD = 0
    SUSPECT = 1
    BAD = 2
    STALE = 3
    MAINTENANCE = 4
    CALIBRATION = 5
    OVER_RANGE = 6
    MANUAL = 7
    COMMS_FAULT = 8
    MISSING = 9


FLAG_MASK = 0x0F
LATE = 0x40
"""Arrival bit: not newer than the channel's newest when it came; never fed to the live state."""
RESTARTED = 0x20
"""Arrival bit: live, but its channel's newest was set back, so the store may already hold this time. With `LATE`: it
counts towards setting the newest back."""
BACKFILL = 0x80
"""Arrival bit: declared by the gateway as a backfill 补传."""


class Severity(IntEnum):
    """Grade of an alarm, ascending: 蓝 < 黄 < 橙 < 红. Level numerals are labels only and never compared."""

    BLUE = 1
    YELLOW = 2
    ORANGE = 3
    RED = 4


class EventKind(StrEnum):
    """What happened to the condition behind an alarm."""

    RAISED = "raised"
    ESCALATED = "escalated"
    DEESCALATED = "deescalated"
    CLEARED = "cleared"
    WITHDRAWN = "withdrawn"


class AlarmClass(StrEnum):
    """Who is told: a hazard goes to the duty desk, a device alarm to maintenance."""

    HAZARD = "hazard"
    DEVICE = "device"


class RejectReason(StrEnum):
    """Why a message or reading went to the dead letters; also a metric label."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    LENGTH_MISMATCH = "length_mismatch"
    NOT_FINITE = "not_finite"
    UNKNOWN_CHANNEL = "unknown_channel"
    FOREIGN_UNIT = "foreign_unit"
    FOREIGN_DEVICE = "foreign_device"
    CLOCK_FUTURE = "clock_future"
    CLOCK_PAST = "clock_past"
    CONFLICT = "conflict"
    STORE_REFUSED = "store_refused"


@dataclass(frozen=True, slots=True)
class ReadingBatch:
    """Readings as columns, in the order they came.

    Attributes:
        channel_ix: int32[n], index of the channel in the catalog.
        ts_us: int64[n], event time, µs since 1970 UTC.
        value: float64[n], canonical unit of the channel's sensor type.
        quality: uint8[n], a `Quality` in the low four bits, arrival bits `LATE`, `RESTARTED` and `BACKFILL` above.
    """

    channel_ix: Int32s
    ts_us: Int64s
    value: Float64s
    quality: UInt8s

    def __len__(self) -> int:
        """Number of readings."""
        return len(self.ts_us)

    @classmethod
    def empty(cls) -> Self:
        """No readings."""
        return cls(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float64), np.empty(0, np.uint8))

    @classmethod
    def concat(cls, batches: Sequence[Self]) -> Self:
        """Join batches in order."""
        if len(batches) == 1:
            return batches[0]
        if not batches:
            return cls.empty()
        return cls(
            np.concatenate([b.channel_ix for b in batches]),
            np.concatenate([b.ts_us for b in batches]),
            np.concatenate([b.value for b in batches]),
            np.concatenate([b.quality for b in batches]),
        )

    def take(self, rows: Int64s | Bools | slice) -> Self:
        """Select rows by index, mask or slice."""
        return type(self)(self.channel_ix[rows], self.ts_us[rows], self.value[rows], self.quality[rows])

    @property
    def late(self) -> Bools:
        """bool[n]: the reading carries `LATE`."""
        late: Bools = (self.quality & LATE) != 0
        return late

    @property
    def flag(self) -> UInt8s:
        """uint8[n]: the `Quality` without the arrival bits."""
        return np.bitwise_and(self.quality, FLAG_MASK, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Block:
    """A high-rate signal: sample i was taken at t0 + round(i × 10⁶ / rate).

    Attributes:
        channel_ix: index of the channel in the catalog.
        t0_us: time of the first sample, µs since 1970 UTC.
        rate_hz: samples per second.
        samples: float32[n], canonical unit.
        quality: one quality byte for the whole block.
    """

    channel_ix: int
    t0_us: int
    rate_hz: float
    samples: Float32s
    quality: int = Quality.GOOD

    def as_readings(self) -> ReadingBatch:
        """The block's samples as the columns that the kernels read."""
        n = len(self.samples)
        ts_us = self.t0_us + np.rint(np.arange(n) * (1e6 / self.rate_hz)).astype(np.int64)
        return ReadingBatch(
            np.full(n, self.channel_ix, np.int32),
            ts_us,
            self.samples.astype(np.float64),
            np.full(n, self.quality, np.uint8),
        )


@dataclass(frozen=True, slots=True)
class Reject:
    """A message, or one part of it, that could not be taken 死信.

    Attributes:
        reason: why, as a closed set.
        detail: the same for a person: field, what was found, the remedy.
        payload: the message as it came (the store cuts it at 64 KiB).
        source: topic, file or endpoint it came from.
        n_readings: how many readings it stands for (1 where that can't be known).
    """

    reason: RejectReason
    detail: str
    payload: bytes = b""
    source: str = ""
    n_readings: int = 1


@dataclass(frozen=True, slots=True)
class ConditionEvent:
    """A change of the condition behind an alarm, as the engine saw it.

    Attributes:
        alarm_id: 20 hex digits, `alarm_id(subject, detector, onset_us)`.
        kind: what happened.
        at_us: event time of the change.
        onset_us: event time of the first reading of the excursion.
        channel_ix: the channel that the alarm is about.
        detector: id of the detector in its pack.
        severity: 1–4 after the event; for `cleared` the severity that ended.
        value: the reading or statistic, in the unit of the limit.
        limit: the limit it passed.
        trial: of a detector on trial: recorded, nobody is told.
        late: found in late data by the history pass.
    """

    alarm_id: str
    kind: EventKind
    at_us: int
    onset_us: int
    channel_ix: int
    detector: str
    severity: int
    value: float
    limit: float
    trial: bool = False
    late: bool = False

    @property
    def event_id(self) -> str:
        """Stable across replays, so that a second write of the same event does nothing."""
        return _digest(f"{self.alarm_id}|{self.kind}|{self.at_us}|{self.severity}")


def alarm_id(subject: str, detector: str, onset_us: int) -> str:
    """Identity of an alarm: a replay after a crash gives the same.

    >>> alarm_id("M001/methane", "gas.methane.high", 0) == alarm_id("M001/methane", "gas.methane.high", 0)
    True
    """
    return _digest(f"{subject}|{detector}|{onset_us}")


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=10).hexdigest()


@dataclass(slots=True)
class Decoded:
    """One decoded message: columns of readings whose names are not resolved yet.

    Attributes:
        names: distinct channel names of the message: `metric` or `device/metric`.
        units: per name the unit the gateway states, or None for the channel's own.
        name_ix: int32[n], index into `names`.
        ts_us: int64[n], event time, µs since 1970 UTC.
        value: float64[n], in the stated unit; NaN where `quality` is missing.
        quality: uint8[n], `Quality` and `BACKFILL`.
        blocks: waveforms as (index into `names`, t0_us, rate_hz, float64[n], quality).
        sent_us: the gateway's own stamp of sending, or 0.
        rejects: the rows that could not be decoded.
    """

    names: list[str]
    units: list[str | None]
    name_ix: Int32s
    ts_us: Int64s
    value: Float64s
    quality: UInt8s
    blocks: list[tuple[int, int, float, Float64s, int]] = field(default_factory=list)
    sent_us: int = 0
    rejects: list[Reject] = field(default_factory=list)

    @classmethod
    def refused(cls, reason: RejectReason, detail: str, n_readings: int = 1) -> Self:
        """A message of which nothing could be decoded."""
        none = ReadingBatch.empty()
        reject = Reject(reason, detail, n_readings=n_readings)
        return cls([], [], none.channel_ix, none.ts_us, none.value, none.quality, rejects=[reject])
