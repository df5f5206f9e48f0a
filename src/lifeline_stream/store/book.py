"""The book of alarms: what the engine's condition events make of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from lifeline_stream.core.model import ConditionEvent, EventKind
from lifeline_stream.store import sql
from lifeline_stream.store.database import Connection, storable
from lifeline_stream.store.group import Rule

SQL = sql.load(__file__)
_ENDS = (EventKind.CLEARED, EventKind.WITHDRAWN)

log = structlog.get_logger(__name__)


class Place(NamedTuple):
    """Where an entry comes from."""

    shard: str
    group_seq: int


@dataclass(slots=True)
class _Entry:
    """What the events of one group make of one alarm."""

    first: ConditionEvent
    severity: int
    peak: int
    value: float
    limit: float
    rose: bool = False
    ended: ConditionEvent | None = None

    @property
    def raised(self) -> bool:
        return self.first.kind is EventKind.RAISED

    @property
    def withdrawn(self) -> bool:
        return self.ended is not None and self.ended.kind is EventKind.WITHDRAWN

    def take(self, event: ConditionEvent) -> None:
        self.severity = event.severity
        if event.kind is EventKind.ESCALATED:
            self.rose, self.value, self.limit = True, event.value, event.limit
        self.peak = max(self.peak, event.severity)
        if event.kind in _ENDS:
            self.ended = event


def _fold(events: Iterable[ConditionEvent]) -> list[_Entry]:
    entries: dict[str, _Entry] = {}
    for e in events:
        entry = entries.setdefault(e.alarm_id, _Entry(e, e.severity, e.severity, e.value, e.limit))
        entry.take(e)
    return list(entries.values())


async def record(connection: Connection, events: Sequence[ConditionEvent], rules: Sequence[Rule], place: Place) -> None:
    """Enter events, in order, in the caller's transaction; one that is in the book already does nothing.

    Late events touch only alarms that were found late: they never clear or change a present one.

    Args:
        connection: in a transaction.
        events: none of them on trial.
        rules: beside `events`.
        place: shard and stored group number.
    """
    new = await _enter(connection, events, place)
    rule_of = {event.detector: rule for event, rule in zip(events, rules, strict=True)}
    entries = _fold(event for event in events if event.event_id in new)
    await _change(connection, [entry for entry in entries if not entry.raised])
    raised = [entry for entry in entries if entry.raised]
    await _supersede(connection, raised, place)
    await _raise(connection, raised, rule_of, place)


async def record_trial(connection: Connection, events: Sequence[ConditionEvent], place: Place) -> None:
    """Enter events of detectors on trial, in their own table."""
    if events:
        columns = _columns(
            (
                e.event_id,
                e.alarm_id,
                e.kind,
                e.at_us,
                e.onset_us,
                e.channel_ix,
                e.detector,
                e.severity,
                e.value,
                e.limit,
                e.late,
            )
            for e in events
        )
        await connection.execute(SQL["enter_trial"], *columns, place.group_seq)


async def _enter(connection: Connection, events: Sequence[ConditionEvent], place: Place) -> set[str]:
    if not events:
        return set()
    columns = _columns((e.event_id, e.alarm_id, e.kind, e.at_us, e.severity, e.value, e.limit, e.late) for e in events)
    return {row["event_id"] for row in await connection.fetch(SQL["enter_events"], *columns, place.group_seq)}


async def _change(connection: Connection, entries: list[_Entry]) -> None:
    if not entries:
        return
    columns = _columns(
        (
            e.first.alarm_id,
            e.first.late,
            e.severity,
            e.peak,
            e.value if e.rose else None,
            e.limit if e.rose else None,
            e.ended.at_us if e.ended else None,
            e.withdrawn,
        )
        for e in entries
    )
    found = {row["alarm_id"] for row in await connection.fetch(SQL["change_alarms"], *columns)}
    if missing := [e.first.alarm_id for e in entries if not e.first.late and e.first.alarm_id not in found]:
        log.warning("events of alarms that are not in the book", alarms=missing[:10], n=len(missing))


async def _supersede(connection: Connection, raised: list[_Entry], place: Place) -> None:
    """Withdraw an active alarm of the same subject and detector: the engine that knew it has started anew."""
    present = [e for e in raised if not e.first.late]
    if not present:
        return
    columns = _columns((e.first.alarm_id, e.first.channel_ix, e.first.detector, e.first.at_us) for e in present)
    rows = await connection.fetch(SQL["supersede"], *columns)
    if not rows:
        return
    gone = [
        ConditionEvent(
            alarm_id=row["alarm_id"],
            kind=EventKind.WITHDRAWN,
            at_us=row["at_us"],
            onset_us=row["at_us"],
            channel_ix=row["channel"],
            detector=row["detector"],
            severity=row["severity"],
            value=row["value"],
            limit=row["limit_value"],
        )
        for row in rows
    ]
    await _enter(connection, gone, place)
    log.warning("alarms superseded", alarms=[e.alarm_id for e in gone[:10]], n=len(gone))


async def _raise(connection: Connection, raised: list[_Entry], rule_of: dict[str, Rule], place: Place) -> None:
    if not raised:
        return
    columns = _columns(
        (
            e.first.alarm_id,
            e.first.channel_ix,
            e.first.detector,
            e.severity,
            e.peak,
            e.first.onset_us,
            e.first.at_us,
            e.ended.at_us if e.ended else None,
            e.value,
            e.limit,
            e.first.late,
            e.withdrawn,
            *map(storable, rule_of[e.first.detector]),
        )
        for e in raised
    )
    await connection.execute(SQL["raise_alarms"], *columns, place.shard, place.group_seq)


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
