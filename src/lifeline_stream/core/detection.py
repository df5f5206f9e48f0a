"""One shard's detection: normaliser, live engine and history pass as one thing to feed, save and restore."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lifeline_stream.core.engine import Engine
from lifeline_stream.core.model import Block, ConditionEvent, EventKind, ReadingBatch, alarm_id
from lifeline_stream.core.normalize import Normalizer
from lifeline_stream.core.plan import Plan, Watch

Clock = Literal["received", "event"]

_AT_ONCE_US = 2**62
"""A clock at which nothing waits any longer."""


@dataclass(frozen=True, slots=True)
class Condition:
    """An alarm whose condition holds, as engine or book know it."""

    alarm_id: str
    channel_ix: int
    detector: str
    onset_us: int
    severity: int


class Detection:
    """What a shard knows: the newest reading of each channel, the live detectors, and the history pass.

    Live readings go through `step`; late ones only through `late`, once the store has said which of them are new.
    """

    def __init__(self, plan: Plan, clock: Clock) -> None:
        """Start with nothing seen."""
        self.plan = plan
        self.normalizer = Normalizer(plan.catalog, plan.packs)
        self._event_time = clock == "event"
        self._live = Engine(plan, event_time=self._event_time)
        self._history = Engine(plan, event_time=self._event_time, late=True)
        self._clock_us = 0

    @property
    def watches(self) -> bool:
        """Whether a silence is measured against the clock, and not only within the data."""
        return not self._event_time

    def now_us(self, received_us: int, batch: ReadingBatch) -> int:
        """The clock of a group: received time, or the greatest event time seen."""
        if not self._event_time:
            return received_us
        if len(batch):
            self._clock_us = max(self._clock_us, int(batch.ts_us.max()))
        return self._clock_us

    def step(self, batch: ReadingBatch, now_us: int, watch_from_us: int) -> tuple[list[ConditionEvent], bool]:
        """Feed one group: its live readings, then the timers.

        Returns:
            The events, and whether a timer changed anything (a group without readings must then be logged).
        """
        events = self._live.step(batch.take(~batch.late) if batch.late.any() else batch, now_us)
        fired, changed = self._live.advance(now_us, watch_from_us)
        return events + fired, changed

    def late(self, batch: ReadingBatch, now_us: int) -> list[ConditionEvent]:
        """Feed late readings to the history pass in time order; of companions it knows what came with them."""
        order = np.lexsort((batch.channel_ix, batch.ts_us))
        events = self._history.step(batch.take(order), now_us)
        fired, _ = self._history.advance(_AT_ONCE_US)
        return events + fired

    def finish(self, now_us: int) -> list[ConditionEvent]:
        """End of a trace."""
        return self._live.finish(now_us)

    def relive(
        self, batch: ReadingBatch, now_us: int, watch_from_us: int, *, with_late: bool = True
    ) -> list[ConditionEvent]:
        """Feed a stored group again on recovery; its events are known already.

        Args:
            batch: its readings, of each channel in time order.
            now_us: its clock.
            watch_from_us: since when silence counted.
            with_late: its late readings go to the history pass; else they have been there.
        """
        self.normalizer.observe(batch)
        self._clock_us = max(self._clock_us, now_us) if self._event_time else 0
        events, _ = self.step(batch, now_us, watch_from_us)
        late = batch.take(batch.late)
        return events + (self.late(late, now_us) if with_late and len(late) else [])

    def save_live(self) -> bytes:
        """State of the live side, after the last group that was fed."""
        return _pack(newest=self.normalizer.save(), live=self._live.save(), clock=str(self._clock_us).encode())

    def save_history(self) -> bytes:
        """State of the history pass, after the last group that was committed."""
        return self._history.save()

    def restore(self, state: bytes) -> None:
        """Take up `join_state(save_live(), save_history())`.

        Raises:
            ValueError: the state is of another plan.
        """
        parts = _unpack(state)
        live = _unpack(parts["live"])
        self.normalizer.restore(live["newest"])
        self._live.restore(live["live"])
        self._clock_us = int(live["clock"])
        self._history.restore(parts["history"])

    def adopt(self, old: Detection) -> list[Watch]:
        """Go on from a shard of other declarations; the watches whose alarms must be withdrawn."""
        self.normalizer.restore(old.normalizer.save())
        self._clock_us = old._clock_us
        self._history.adopt(old._history)
        return self._live.adopt(old._live)

    def conditions(self) -> list[Condition]:
        """Every alarm whose condition holds now."""
        return [
            Condition(alarm_id(w.channel.id, w.detector.id, onset_us), w.channel.ix, w.detector.id, onset_us, severity)
            for w, onset_us, severity in self._live.active()
        ]


def readings_of(batch: ReadingBatch, blocks: Sequence[Block]) -> ReadingBatch:
    """Readings and the samples of blocks as one batch; each channel is one or the other, so order does not matter."""
    return ReadingBatch.concat([batch, *(block.as_readings() for block in blocks)]) if blocks else batch


def withdrawn(condition: Condition, now_us: int, *, trial: bool = False) -> ConditionEvent:
    """The end of an alarm whose detector or channel no longer exists."""
    return ConditionEvent(
        alarm_id=condition.alarm_id,
        kind=EventKind.WITHDRAWN,
        at_us=now_us,
        onset_us=condition.onset_us,
        channel_ix=condition.channel_ix,
        detector=condition.detector,
        severity=condition.severity,
        value=float("nan"),
        limit=float("nan"),
        trial=trial,
    )


def join_state(live: bytes, history: bytes) -> bytes:
    """One blob to be stored with a commit group."""
    return _pack(live=live, history=history)


def _pack(**parts: bytes) -> bytes:
    file = io.BytesIO()
    arrays: dict[str, Any] = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
    np.savez(file, **arrays)
    return file.getvalue()


def _unpack(blob: bytes) -> dict[str, bytes]:
    with np.load(io.BytesIO(blob), allow_pickle=False) as stored:
        return {name: stored[name].tobytes() for name in stored.files}
