"""The outbox as the deliverer sees it: at least once, each alarm in order, one deliverer at a time for each item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lifeline_stream.store import sql
from lifeline_stream.store.database import Queryable, budget, storable

SQL = sql.load(__file__)
STEP_S = 10.0
"""Budget of one step."""
LEASE_S = 60.0
"""How long a claimed item is left to the one that claimed it; afterwards another may send it again."""
CURRENT_S = 900.0
"""A held alarm is told once its channel has a reading this recent."""


class Due(NamedTuple):
    """An item to be delivered now.

    Attributes:
        id: the receiver's key against doubles.
        alarm_id: alarm that it is about.
        body: as it is sent.
        attempts: deliveries tried before this one.
        at_us: event time.
    """

    id: str
    alarm_id: str
    body: bytes
    attempts: int
    at_us: int


class Backlog(NamedTuple):
    """What waits.

    Attributes:
        due: items to be delivered, those between two attempts included.
        held: items that wait for their channel to be current.
        oldest_us: event time of the oldest due item, or None.
    """

    due: int
    held: int
    oldest_us: int | None


class OutboxStore:
    """Items of one target. Times are µs since 1970 UTC, given by the caller."""

    def __init__(self, database: Queryable, target: str) -> None:
        """Deliver to `target` what `database` holds."""
        self._database = database
        self._target = target

    async def claim_due(self, limit: int, now_us: int) -> list[Due]:
        """Take items whose time has come, oldest first; an item waits for the earlier ones of its alarm.

        The claim lasts `LEASE_S`; a deliverer that dies in between has its items sent again. Nothing while the target
        is disabled.
        """
        async with budget(STEP_S, "claim from the outbox"):
            rows = await self._database.fetch(SQL["claim"], limit, now_us, now_us + int(LEASE_S * 1e6), self._target)
        return sorted((Due(*row) for row in rows), key=lambda due: due.at_us)

    async def mark_delivered(self, id_: str, at_us: int, result: str) -> None:
        """The target has it."""
        await self._mark(id_, "delivered", at_us, result)

    async def mark_retry(self, id_: str, next_us: int, result: str) -> None:
        """Try again at `next_us`."""
        await self._mark(id_, "due", next_us, result)

    async def mark_failed(self, id_: str, at_us: int, result: str) -> None:
        """The target will never take it."""
        await self._mark(id_, "failed", at_us, result)

    async def reconcile(self, ids: Sequence[str], at_us: int) -> list[str]:
        """Mark what was delivered straight from memory; those of the ids that the outbox has."""
        async with budget(STEP_S, "reconcile the outbox"):
            await self._database.execute(SQL["reconcile"], list(ids), at_us)
            return [row["id"] for row in await self._database.fetch(SQL["known"], list(ids))]

    async def _mark(self, id_: str, state: str, at_us: int, result: str) -> None:
        async with budget(STEP_S, "mark in the outbox"):
            await self._database.execute(SQL["mark"], id_, state, at_us, storable(result))

    async def release_held(self, now_us: int) -> tuple[int, int]:
        """Judge the held items again.

        Of an alarm that still holds and whose channel is current they become due. Of an alarm that has ended they are
        skipped, and so is the rest about an alarm that nobody was told of.

        Returns:
            How many became due, and how many were skipped.
        """
        async with budget(STEP_S, "release held items"):
            skipped = await self._database.fetch(SQL["skip_ended"])
            released = await self._database.fetch(SQL["release_current"], now_us, now_us - int(CURRENT_S * 1e6))
        return len(released), len(skipped)

    async def backlog(self) -> Backlog:
        """What waits, held items apart."""
        async with budget(STEP_S, "count the outbox"):
            return Backlog(*await self._database.fetchrow(SQL["backlog"]))

    async def disable_target(self, at_us: int, reason: str) -> None:
        """Send nothing more to the target; what is due stays due."""
        async with budget(STEP_S, "disable the target"):
            await self._database.execute(SQL["disable"], self._target, at_us, storable(reason))

    async def enable_target(self) -> None:
        """Send to the target again."""
        async with budget(STEP_S, "enable the target"):
            await self._database.execute(SQL["enable"], self._target)

    async def why_disabled(self) -> str | None:
        """Why nothing is sent to the target, or None."""
        async with budget(STEP_S, "look up the target"):
            reason: str | None = await self._database.fetchval(SQL["why_disabled"], self._target)
        return reason
