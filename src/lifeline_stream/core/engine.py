"""The detection engine: readings and a logged clock in, condition events out."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.kernels import EVENT, absence, gate
from lifeline_stream.core.model import (
    ConditionEvent,
    EventKind,
    Float64s,
    Int32s,
    Int64s,
    Quality,
    ReadingBatch,
    UInt8s,
    alarm_id,
)
from lifeline_stream.core.plan import Plan, Stage, Watch

_EVENTS_AT_ONCE = 4096
_KINDS = (EventKind.RAISED, EventKind.ESCALATED, EventKind.DEESCALATED, EventKind.CLEARED)
_BEFORE_GATE = "absence"
"""Kind that sees a reading when it comes: a reading that waits for its companions has still been reported."""
_EVENT_WAIT_US = 60_000_000
"""In event time a silence is decided only when the newest time of all is this far beyond it."""

Columns = tuple[Int32s, Int64s, Float64s, UInt8s, UInt8s]


class Engine:
    """Runs every detector of a plan over batches of readings.

    The state is explicit arrays; `save` and `restore` at any point equal never having stopped. The events of a batch
    don't depend on how readings were split into batches, nor on their order across channels.
    """

    def __init__(self, plan: Plan, *, event_time: bool = False, late: bool = False) -> None:
        """Start with nothing seen.

        Args:
            plan: compiled with the same `event_time`.
            event_time: `now` is the greatest event time seen; otherwise it is received time.
            late: this engine is the history pass; its events are marked so, and it looks for no silence.
        """
        self.plan = plan
        self._event_time = event_time
        self._late = late
        self._state = {kind: stage.family.fresh(len(stage.table)) for kind, stage in plan.stages.items()}
        self._helds, self._tracks = gate.fresh(len(plan.gate.dependents), len(plan.gate.needs))
        self._out = np.zeros(max(_EVENTS_AT_ONCE, 2 * _widest(plan)), EVENT)

    def step(self, batch: ReadingBatch, now_us: int) -> list[ConditionEvent]:
        """Take readings in the order they came, none of them late.

        Args:
            batch: readings of channels of the plan.
            now_us: the logged clock of this step, µs since 1970 UTC.

        Returns:
            The events, ordered by time, channel and detector.
        """
        if not len(batch):
            return []
        flags = batch.flag
        flags[np.isnan(batch.value)] = Quality.MISSING  # whatever the flag says, nothing was measured
        columns = (batch.channel_ix, batch.ts_us, batch.value, flags, np.zeros(len(batch), np.uint8))
        events = [] if self._late else self._run(_BEFORE_GATE, columns)
        events += self._detect(self._pass_gate(batch, flags, now_us))
        return _ordered(events)

    def advance(self, now_us: int, watch_from_us: int = -1) -> tuple[list[ConditionEvent], bool]:
        """Let timers fire.

        Args:
            now_us: the logged clock.
            watch_from_us: since when the source has been connected and drained, or -1 to count a channel's silence only
                from its newest reading. A silence never starts before it; with `now_us` nothing is missed.

        Returns:
            The events, and whether anything changed (only then must the call be logged).
        """
        rows = np.zeros(int(self._helds["n"].sum()), gate.ROW)
        g = self.plan.gate
        n = gate.advance(now_us, g.dependents, g.needs, self._helds, self._tracks, rows) if len(rows) else 0
        events = self._detect(_columns(rows[:n]))
        if not self._late:
            events += self._miss(now_us - _EVENT_WAIT_US if self._event_time else now_us, watch_from_us)
        return _ordered(events), bool(events or n)

    def _miss(self, due_us: int, watch_from_us: int) -> list[ConditionEvent]:
        stage, state = self.plan.stages[_BEFORE_GATE], self._state[_BEFORE_GATE]
        events: list[ConditionEvent] = []
        row = 0
        while row < len(stage.table):
            row, n = absence.advance(due_us, watch_from_us, stage.table, stage.params, state, self._out, row)
            events += self._read(stage, n)
        return events

    def finish(self, now_us: int) -> list[ConditionEvent]:
        """End of a trace: nothing more will come, so what waits goes and a silence up to `now_us` counts."""
        wait_us = int(self.plan.gate.dependents["hold_us"].max(initial=_EVENT_WAIT_US))
        events, _ = self.advance(now_us + wait_us)
        return [event for event in events if event.at_us <= now_us]

    def active(self) -> Iterator[tuple[Watch, int, int]]:
        """Conditions that hold: (watch, onset in µs, severity)."""
        for kind, stage in self.plan.stages.items():
            state = self._state[kind]
            onsets = state["since_us"] if kind == "flat" else state["onset_us"]
            for i in np.flatnonzero(state["severity"]):
                yield stage.watches[i], int(onsets[i]), int(state["severity"][i])

    def save(self) -> bytes:
        """The whole state, as a numpy archive."""
        file = io.BytesIO()
        np.savez(file, helds=self._helds, tracks=self._tracks, **self._state)
        return file.getvalue()

    def restore(self, state: bytes) -> None:
        """Take up a state that `save` gave under the same plan.

        Raises:
            ValueError: the state is of another plan.
        """
        with np.load(io.BytesIO(state), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        mine: dict[str, npt.NDArray[Any]] = {"helds": self._helds, "tracks": self._tracks, **self._state}
        for name, array in mine.items():
            found = arrays.get(name)
            if found is None or found.dtype != array.dtype or found.shape != array.shape:
                raise ValueError(f"the saved state's {name!r} does not fit this plan")
            array[...] = found

    def adopt(self, old: Engine) -> list[Watch]:
        """Take over the state of every detector that is unchanged from an engine of other declarations.

        What waits at the gate starts anew.

        Returns:
            The watches of the old engine whose condition held and that no longer exist or started anew.
        """
        taken: set[tuple[str, str, str]] = set()
        for kind, stage in self.plan.stages.items():
            before = {key: i for i, key in enumerate(old.plan.stages[kind].keys())}
            for i, key in enumerate(stage.keys()):
                if key in before:
                    self._state[kind][i] = old._state[kind][before[key]]
                    taken.add(key)
        lost = []
        for kind, stage in old.plan.stages.items():
            keys = stage.keys()
            lost += [stage.watches[i] for i in np.flatnonzero(old._state[kind]["severity"]) if keys[i] not in taken]
        return lost

    def _pass_gate(self, batch: ReadingBatch, flags: UInt8s, now_us: int) -> Columns:
        g = self.plan.gate
        if not len(g.dependents):
            return (batch.channel_ix, batch.ts_us, batch.value, flags, np.zeros(len(batch), np.uint8))
        rows = np.zeros(len(batch) + int(self._helds["n"].sum()), gate.ROW)
        columns = (batch.channel_ix, batch.ts_us, batch.value, flags, now_us)
        tables = (g.dependent_of, g.dependents, g.need_start, g.need_rows, g.needs)
        n = gate.step(*columns, *tables, self._helds, self._tracks, rows)
        return _columns(rows[:n])

    def _detect(self, columns: Columns) -> list[ConditionEvent]:
        events: list[ConditionEvent] = []
        for kind in self.plan.stages:
            if kind != _BEFORE_GATE and len(columns[0]):
                events += self._run(kind, columns)
        return events

    def _run(self, kind: str, columns: Columns) -> list[ConditionEvent]:
        stage = self.plan.stages[kind]
        if not len(stage.table):
            return []
        events: list[ConditionEvent] = []
        row = 0
        while row < len(columns[0]):
            arguments = (stage.start, stage.table, stage.params, self._state[kind], self._out, row)
            row, n = stage.family.step(*columns, *arguments)
            events += self._read(stage, n)
        return events

    def _read(self, stage: Stage, n: int) -> list[ConditionEvent]:
        return [self._event(stage.watches[e["inst"]], e) for e in self._out[:n]]

    def _event(self, watch: Watch, e: np.void) -> ConditionEvent:
        onset_us = int(e["onset_us"])
        return ConditionEvent(
            alarm_id=alarm_id(watch.channel.id, watch.detector.id, onset_us),
            kind=_KINDS[e["kind"]],
            at_us=int(e["at_us"]),
            onset_us=onset_us,
            channel_ix=watch.channel.ix,
            detector=watch.detector.id,
            severity=int(e["severity"]),
            value=float(e["value"]),
            limit=float(e["limit"]),
            trial=watch.detector.status == "trial",
            late=self._late,
        )


def _widest(plan: Plan) -> int:
    """Most instances of one kind on one channel."""
    return max((int(np.diff(stage.start).max(initial=0)) for stage in plan.stages.values()), default=0)


def _columns(rows: npt.NDArray[Any]) -> Columns:
    names = ("channel", "ts_us", "value", "quality", "unmet")
    return tuple(np.ascontiguousarray(rows[name]) for name in names)  # type: ignore[return-value]


_BY_TIME: Callable[[ConditionEvent], tuple[int, int, str]] = lambda e: (e.at_us, e.channel_ix, e.detector)  # noqa: E731


def _ordered(events: list[ConditionEvent]) -> list[ConditionEvent]:
    return sorted(events, key=_BY_TIME)
