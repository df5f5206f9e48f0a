"""Slow, obvious scalar twins of the kernels, one reading at a time in plain Python: what the fast ones must equal.

They are written from the design: a detector is an object, a duration is a number, a window is a list. Benchmarks take
the same engine as the plain-Python way to detect, and `reference_wire` for the other steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lifeline_stream.core.catalog import Catalog, Channel
from lifeline_stream.core.model import ConditionEvent, EventKind, Quality, alarm_id
from lifeline_stream.core.packs import Absence, AnyDetector, Flat, Ladder, Pack, Range, Rate, Sensor, severity_of

NOT_A_MEASUREMENT = {
    Quality.BAD,
    Quality.STALE,
    Quality.MAINTENANCE,
    Quality.CALIBRATION,
    Quality.COMMS_FAULT,
    Quality.MISSING,
}
NO_SIGN_OF_LIFE = {Quality.STALE, Quality.COMMS_FAULT, Quality.MISSING}
NAN = math.nan


class Reading(NamedTuple):
    """One canonical reading."""

    channel: int
    ts_us: int
    value: float
    quality: int


class Change(NamedTuple):
    """What a detector says: its condition changed."""

    kind: EventKind
    severity: int
    at_us: int
    onset_us: int
    value: float
    limit: float


def counted_us(last_us: int | None, ts_us: int, every_us: int) -> int:
    """Time between two readings, or 0 where nothing came for more than three intervals."""
    if last_us is None or ts_us <= last_us or ts_us - last_us > 3 * every_us:
        return 0
    return ts_us - last_us


# ── detectors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Grade:
    """One severity of a ladder."""

    severity: int
    above: float
    below: float
    past_us: int | None = None
    """How long the value has been past the limit; None when it is not."""
    back_us: int | None = None
    """How long it has been back within the dead-band."""


class LadderTwin:
    """Limits on both sides with dead-band, on-delay and off-delay."""

    def __init__(self, detector: Ladder, every_us: int) -> None:
        self.every_us = every_us
        above, below = detector.above.as_list(), detector.below.as_list()
        self.grades = [
            Grade(n, NAN if high is None else high, NAN if low is None else low)
            for n, (high, low) in enumerate(zip(above, below, strict=True), 1)
            if high is not None or low is not None
        ]
        first_above, first_below = (next(iter(side.given()), NAN) for side in (detector.above, detector.below))
        self.band_above = 0.0 if detector.clear_below is None else first_above - detector.clear_below
        self.band_below = 0.0 if detector.clear_above is None else detector.clear_above - first_below
        self.clears = {"high": first_above - self.band_above, "low": first_below + self.band_below}
        self.on_us, self.off_us = round(detector.on_delay_s * 1e6), round(detector.off_delay_s * 1e6)
        self.severity = 0
        self.side = "high"
        self.onset_us: int | None = None
        self.last_us: int | None = None

    def move(self, ts_us: int, x: float, *, believed: bool = True) -> list[Change]:
        passed_us = counted_us(self.last_us, ts_us, self.every_us)
        self.last_us = ts_us
        for g in self.grades:
            past = x >= g.above or x <= g.below
            back = believed and not x >= g.above - self.band_above and not x <= g.below + self.band_below
            g.past_us = (0 if g.past_us is None else g.past_us + passed_us) if past else None
            g.back_us = (0 if g.back_us is None else g.back_us + passed_us) if back else None
        if self.severity == 0:
            excursion = any(g.past_us is not None for g in self.grades)
            self.onset_us = (ts_us if self.onset_us is None else self.onset_us) if excursion else None
        reached = [g.severity for g in self.grades if g.past_us is not None and g.past_us >= self.on_us]
        kept = [
            g.severity
            for g in self.grades
            if g.severity <= self.severity and not (g.back_us is not None and g.back_us >= self.off_us)
        ]
        return self.become(max(reached + kept, default=0), ts_us, x)

    def become(self, severity: int, ts_us: int, x: float) -> list[Change]:
        before, self.severity = self.severity, severity
        if severity == before:
            return []
        grade = {g.severity: g for g in self.grades}
        onset_us = self.onset_us or 0
        if severity > before:
            self.side = "low" if x <= grade[severity].below else "high"
            limit = grade[severity].below if self.side == "low" else grade[severity].above
            return [Change(EventKind.ESCALATED if before else EventKind.RAISED, severity, ts_us, onset_us, x, limit)]
        if severity:
            limit = grade[before].below if self.side == "low" else grade[before].above
            return [Change(EventKind.DEESCALATED, severity, ts_us, onset_us, x, limit)]
        self.onset_us = None
        return [Change(EventKind.CLEARED, before, ts_us, onset_us, x, self.clears[self.side])]


class ThresholdTwin(LadderTwin):
    """The reading on the ladder; what is over range raises and never clears."""

    def take(self, ts_us: int, value: float, quality: int) -> list[Change]:
        return self.move(ts_us, value, believed=quality != Quality.OVER_RANGE)


class RateTwin:
    """Buckets of a fifth of `mean_s`; the mean of five, less the mean of the five that ended `over_s` before."""

    def __init__(self, detector: Rate, every_us: int) -> None:
        self.width_us = round(detector.mean_s * 1e6 / 5)
        self.back = round(detector.over_s / detector.mean_s * 5)
        self.needed = max(1, 5 * self.width_us // (2 * every_us))
        self.ladder = LadderTwin(detector, max(every_us, self.width_us))
        self.buckets: dict[int, list[float]] = {}
        self.open: int | None = None

    @property
    def severity(self) -> int:
        return self.ladder.severity

    def mean(self, newest: int) -> float:
        """Of the five buckets up to `newest`, each added up in the order of its readings."""
        total, count = 0.0, 0
        for bucket in range(newest - 4, newest + 1):
            in_bucket = 0.0
            for value in self.buckets.get(bucket, []):
                in_bucket += value
            total += in_bucket
            count += len(self.buckets.get(bucket, []))
        return total / count if count >= self.needed else NAN

    def take(self, ts_us: int, value: float, quality: int) -> list[Change]:
        if quality == Quality.OVER_RANGE:
            return []
        bucket = ts_us // self.width_us
        changes: list[Change] = []
        if self.open is None or bucket > self.open:
            if self.open is not None:
                difference = self.mean(self.open) - self.mean(self.open - self.back)
                if not math.isnan(difference):
                    changes = self.ladder.move((self.open + 1) * self.width_us, difference)
            self.open = bucket
        if bucket > self.open - 25:
            self.buckets.setdefault(bucket, []).append(value)
        return changes


class FlatTwin:
    """No change by more than the tolerance for `after_s`, counted while readings come."""

    def __init__(self, detector: Flat, every_us: int) -> None:
        self.tolerance, self.after_us = detector.tolerance, round(detector.after_s * 1e6)
        self.grade = int(severity_of(detector.severity))
        self.every_us = every_us
        self.severity = 0
        self.held = NAN
        self.last_us: int | None = None
        self.since_us = self.flat_us = 0

    def take(self, ts_us: int, value: float, quality: int) -> list[Change]:  # noqa: ARG002 - all twins are asked alike
        changes = []
        if self.last_us is None or abs(value - self.held) > self.tolerance:
            if self.severity:
                changes.append(self.change(EventKind.CLEARED, ts_us))
            self.held, self.since_us, self.flat_us, self.severity = value, ts_us, 0, 0
        else:
            self.flat_us += counted_us(self.last_us, ts_us, self.every_us)
            if self.flat_us >= self.after_us and not self.severity:
                self.severity = self.grade
                changes.append(self.change(EventKind.RAISED, ts_us))
        self.last_us = ts_us
        return changes

    def change(self, kind: EventKind, ts_us: int) -> Change:
        return Change(kind, self.severity, ts_us, self.since_us, self.flat_us / 1e6, self.after_us / 1e6)


class AbsenceTwin:
    """A channel that stopped reporting."""

    def __init__(self, detector: Absence, every_us: int, *, event_time: bool) -> None:
        self.wait_us = max(round(detector.at_least_s * 1e6), int(detector.after_intervals * every_us))
        self.grade = int(severity_of(detector.severity))
        self.event_time = event_time
        self.severity = 0
        self.newest_us: int | None = None
        self.onset_us = self.raised_us = 0

    def miss(self, since_us: int) -> Change:
        self.severity, self.onset_us, self.raised_us = self.grade, since_us, since_us + self.wait_us
        wait_s = self.wait_us / 1e6
        return Change(EventKind.RAISED, self.severity, self.raised_us, since_us, wait_s, wait_s)

    def take(self, ts_us: int, value: float, quality: int) -> list[Change]:  # noqa: ARG002
        if quality in NO_SIGN_OF_LIFE:
            return []
        changes = []
        silent = self.newest_us is not None and ts_us - self.newest_us > self.wait_us
        if self.event_time and silent and not self.severity:
            changes.append(self.miss(self.newest_us or 0))
        if self.severity:
            at_us = max(ts_us, self.raised_us)
            silent_s = (at_us - self.onset_us) / 1e6
            changes.append(Change(EventKind.CLEARED, self.severity, at_us, self.onset_us, silent_s, self.wait_us / 1e6))
            self.severity = 0
        self.newest_us = ts_us if self.newest_us is None else max(self.newest_us, ts_us)
        return changes

    def wait(self, now_us: int, watch_from_us: int) -> list[Change]:
        """The timer: silent since the newest reading, and no earlier than the source has been watched."""
        starts = [t for t in (self.newest_us, watch_from_us if watch_from_us >= 0 else None) if t is not None]
        if self.severity or not starts or now_us - max(starts) <= self.wait_us:
            return []
        return [self.miss(max(starts))]


Twin = ThresholdTwin | RateTwin | FlatTwin | AbsenceTwin
TWINS: dict[str, type[Twin]] = {"threshold": ThresholdTwin, "rate": RateTwin, "flat": FlatTwin, "absence": AbsenceTwin}
"""Kind of detector → its twin."""


def twin_of(detector: AnyDetector, every_us: int, *, event_time: bool) -> Twin:
    if isinstance(detector, Absence):
        return AbsenceTwin(detector, every_us, event_time=event_time)
    return TWINS[detector.kind](detector, every_us)  # type: ignore[arg-type, call-arg]


# ── the gate, and the engine around it ────────────────────────────────────────────────────────────────────────────────


@dataclass
class Companion:
    """A sensor that another's detectors ask about: its verdicts by time."""

    channel: int
    wanted: Range
    forbidden: bool
    newest_us: int = -1
    unmet: list[tuple[int, bool]] = field(default_factory=list)

    def follow(self, r: Reading) -> None:
        if r.ts_us <= self.newest_us:
            return
        self.newest_us = r.ts_us
        if r.quality in NOT_A_MEASUREMENT or math.isnan(r.value):
            return
        above = self.wanted.above is not None and r.value > self.wanted.above
        below = self.wanted.below is not None and r.value < self.wanted.below
        unmet = (above or below) == self.forbidden
        if not self.unmet or self.unmet[-1][1] != unmet:
            self.unmet = [*self.unmet, (r.ts_us, unmet)][-8:]

    def leaves_unmet(self, ts_us: int) -> bool:
        """As of a time; unknown counts as met."""
        return next((unmet for at_us, unmet in reversed(self.unmet) if at_us <= ts_us), False)


@dataclass
class Waiting:
    """The readings of one channel that wait for its companions."""

    companions: dict[tuple[str, str], Companion]
    """By need: companion sensor and state."""
    hold_us: int
    red_above: float
    red_below: float
    held: list[tuple[int, Reading]] = field(default_factory=list)

    def known(self) -> list[Reading]:
        reached_us = min(c.newest_us for c in self.companions.values())
        return self.leave(sum(1 for _ in self.until(reached_us)))

    def until(self, reached_us: int) -> Iterable[Reading]:
        for _, reading in self.held:
            if reading.ts_us > reached_us:
                return
            yield reading

    def leave(self, count: int) -> list[Reading]:
        gone, self.held = self.held[:count], self.held[count:]
        return [reading for _, reading in gone]

    def come(self, r: Reading, now_us: int) -> list[Reading]:
        gone = self.known()
        if len(self.held) == 16:
            gone += self.leave(1)
        self.held.append((now_us, r))
        red = r.quality not in NOT_A_MEASUREMENT and (r.value >= self.red_above or r.value <= self.red_below)
        return gone + (self.leave(len(self.held)) if red else self.known())

    def overdue(self, now_us: int) -> list[Reading]:
        count = 0
        while count < len(self.held) and self.held[count][0] + self.hold_us <= now_us:
            count += 1
        return self.leave(count)


@dataclass
class Watching:
    """One detector on one channel."""

    channel: Channel
    sensor: Sensor
    detector: AnyDetector
    twin: Twin


class ReferenceEngine:
    """Every detector of the packs over the channels of a catalog, one reading at a time."""

    def __init__(self, catalog: Catalog, packs: Sequence[Pack], *, event_time: bool = False) -> None:
        self.event_time = event_time
        self.watching: dict[int, list[Watching]] = {c.ix: [] for c in catalog.channels}
        self.waiting: dict[int, Waiting] = {}
        self.asked: dict[int, list[tuple[int, Companion]]] = {c.ix: [] for c in catalog.channels}
        """By channel: those that wait for it, as the companion that it is to them."""
        sensors = {f"{p.domain.id}.{s.id}": s for p in packs for s in p.sensor}
        for channel in catalog.channels:
            sensor = sensors.get(channel.sensor)
            pack = next((p for p in packs if p.domain.id == channel.domain), None)
            if sensor is None or pack is None:
                continue
            every_us = round(channel.every_s * 1e6)
            for detector in pack.detector:
                if sensor in pack.sensors_of(detector):
                    twin = twin_of(detector, every_us, event_time=event_time)
                    self.watching[channel.ix].append(Watching(channel, sensor, detector, twin))
            self._wait(channel, catalog, sensors)

    def _wait(self, channel: Channel, catalog: Catalog, sensors: dict[str, Sensor]) -> None:
        mine = [w.detector for w in self.watching[channel.ix] if w.detector.needs]
        companions = {}
        for name, state in (need for detector in mine for need in detector.needs.items()):
            wanted = f"{channel.domain}.{name}"
            near = [c for c in catalog.channels if c.sensor == wanted and c.device == channel.device]
            near += [c for c in catalog.channels if c.sensor == wanted and c.asset and c.asset == channel.asset]
            if near:
                bounds = sensors[wanted].states[state.removeprefix("not ")]
                companions[name, state] = Companion(near[0].ix, bounds, state.startswith("not "))
        if not companions:
            return
        for companion in companions.values():
            self.asked[companion.channel].append((channel.ix, companion))
        ladders = [w.detector for w in self.watching[channel.ix] if w.detector.kind == "threshold"]
        above = [d.above.red for d in ladders if d.above.red is not None]
        below = [d.below.red for d in ladders if d.below.red is not None]
        hold_us = round(max(d.hold_s for d in (w.detector for w in self.watching[channel.ix])) * 1e6)
        self.waiting[channel.ix] = Waiting(companions, hold_us, min(above, default=NAN), max(below, default=NAN))

    def step(self, readings: Sequence[Reading], now_us: int) -> list[ConditionEvent]:
        """Take readings that came together."""
        events = [e for r in readings for e in self._feed(r, kinds={"absence"})]
        advanced: dict[int, None] = {}
        for r in readings:
            for ix, companion in self.asked[r.channel]:
                companion.follow(r)
                advanced[ix] = None
        for r in readings:
            if r.channel in self.waiting:
                events += self._released(r.channel, self.waiting[r.channel].come(r, now_us))
            else:
                events += self._feed(r, kinds={"threshold", "rate", "flat"})
        for ix in advanced:
            events += self._released(ix, self.waiting[ix].known())
        return ordered(events)

    def advance(self, now_us: int, watch_from_us: int = -1) -> list[ConditionEvent]:
        """Let timers fire."""
        events = [e for ix, w in self.waiting.items() for e in self._released(ix, w.overdue(now_us))]
        due_us = now_us - 60_000_000 if self.event_time else now_us
        for watching in (w for on_channel in self.watching.values() for w in on_channel):
            if isinstance(watching.twin, AbsenceTwin):
                events += [event_of(watching, change) for change in watching.twin.wait(due_us, watch_from_us)]
        return ordered(events)

    def _released(self, ix: int, readings: Sequence[Reading]) -> list[ConditionEvent]:
        companions = self.waiting[ix].companions
        events = []
        for r in readings:
            unmet = {need for need, companion in companions.items() if companion.leaves_unmet(r.ts_us)}
            events += self._feed(r, kinds={"threshold", "rate", "flat"}, unmet=unmet)
        return events

    def _feed(self, r: Reading, kinds: set[str], unmet: Iterable[tuple[str, str]] = ()) -> list[ConditionEvent]:
        events = []
        for w in self.watching[r.channel]:
            if w.detector.kind in kinds and (w.detector.kind == "absence" or moves(w, r, unmet)):
                quality = Quality.MISSING if math.isnan(r.value) else r.quality
                events += [event_of(w, change) for change in w.twin.take(r.ts_us, r.value, quality)]
        return events


def moves(watching: Watching, r: Reading, unmet: Iterable[tuple[str, str]]) -> bool:
    """Whether a reading may move a detector."""
    if math.isnan(r.value) or r.quality in NOT_A_MEASUREMENT or set(watching.detector.needs.items()) & set(unmet):
        return False
    return r.quality != Quality.OVER_RANGE or watching.sensor.over_range == "alarm"


def event_of(watching: Watching, change: Change) -> ConditionEvent:
    channel, detector = watching.channel, watching.detector
    return ConditionEvent(
        alarm_id=alarm_id(channel.id, detector.id, change.onset_us),
        channel_ix=channel.ix,
        detector=detector.id,
        trial=detector.status == "trial",
        **change._asdict(),
    )


def ordered(events: Iterable[ConditionEvent]) -> list[ConditionEvent]:
    return sorted(events, key=lambda e: (e.at_us, e.channel_ix, e.detector))
