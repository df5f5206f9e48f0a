"""Delivery: outbox items to a webhook until it has them, at least once, with a stable id."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from lifeline_stream.errors import TransientError
from lifeline_stream.notify.webhook import Delivery, Outcome, Webhook

log = structlog.get_logger(__name__)

SCHEDULE_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0)
"""Pauses between attempts; the last one repeats until the item is too old."""
GIVE_UP_AFTER_S = 24 * 3600.0
AT_ONCE = 8
POLL_S = 1.0
CLAIM = 64
_REMEMBERED = 100_000
"""Ids of what was received that are kept in memory."""


class Item(Protocol):
    """What is to be sent."""

    @property
    def id(self) -> str:
        """The receiver's key against doubles."""

    @property
    def alarm_id(self) -> str:
        """Items of one alarm go out in order."""

    @property
    def body(self) -> bytes:
        """As it is sent."""


class Due(Item, Protocol):
    """An item of the outbox."""

    @property
    def attempts(self) -> int:
        """Tried so often before."""

    @property
    def at_us(self) -> int:
        """Event time."""


class Outbox(Protocol):
    """The store's side of the outbox; times are µs since 1970 UTC."""

    async def claim_due(self, limit: int, now_us: int) -> Sequence[Due]:
        """Take items whose time has come."""

    async def mark_delivered(self, id_: str, at_us: int, result: str) -> None:
        """The target has it."""

    async def mark_retry(self, id_: str, next_us: int, result: str) -> None:
        """Try again then."""

    async def mark_failed(self, id_: str, at_us: int, result: str) -> None:
        """Given up."""

    async def release_held(self, now_us: int) -> tuple[int, int]:
        """Judge held items again."""

    async def disable_target(self, at_us: int, reason: str) -> None:
        """Send nothing more."""


T = TypeVar("T", bound=Item)


class Deliverer:
    """Sends what the outbox holds, and, while a commit is overdue, straight from memory.

    Both may have the same item in hand, as a commit whose answer was lost is in the outbox already: what was received
    is not sent again.
    """

    def __init__(self, outbox: Outbox, webhook: Webhook, on_result: Callable[[str], None] = lambda _: None) -> None:
        """Deliver from one outbox to one webhook; `on_result` is told the outcome of each attempt."""
        self._outbox = outbox
        self._webhook = webhook
        self._on_result = on_result
        self._more = asyncio.Event()
        self._received: dict[str, None] = {}
        self._on_its_way: dict[str, asyncio.Event] = {}

    def wake(self) -> None:
        """There may be something to send."""
        self._more.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                self._more.clear()
                try:
                    n = await self.deliver_due()
                except TransientError as error:
                    log.warning("outbox is out of reach", error=str(error))
                    n = 0
                if not n:
                    await self._wait()
        finally:
            await self._webhook.close()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._more.wait()
        except TimeoutError:
            return

    async def deliver_due(self) -> int:
        """One round; how many items were tried."""
        await self._outbox.release_held(_now_us())
        due = await self._outbox.claim_due(CLAIM, _now_us())
        room = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for item in due:
                tasks.create_task(self._deliver(item, room))
        return len(due)

    async def _deliver(self, item: Due, room: asyncio.Semaphore) -> None:
        async with room:
            delivery = await self._send(item)
        try:
            await self._record(item, delivery)
        except TransientError as error:  # the claim runs out, and the item comes again
            log.warning("outbox is out of reach", id=item.id, error=str(error))

    async def _send(self, item: Item, as_: str = Outcome.DELIVERED) -> Delivery:
        """Try once, unless it has been received; a success is counted as `as_`."""
        while (other := self._on_its_way.get(item.id)) is not None:
            await other.wait()
        if item.id in self._received:
            return Delivery(Outcome.DELIVERED, "received straight from memory")
        ended = self._on_its_way[item.id] = asyncio.Event()
        try:
            delivery = await self._webhook.send(item.id, item.body)
        finally:
            del self._on_its_way[item.id]
            ended.set()
        self._on_result(as_ if delivery.outcome is Outcome.DELIVERED else delivery.outcome)
        if delivery.outcome is Outcome.DELIVERED:
            self._received[item.id] = None
            if len(self._received) > _REMEMBERED:
                del self._received[next(iter(self._received))]
        return delivery

    async def _record(self, item: Due, delivery: Delivery) -> None:
        now_us = _now_us()
        if delivery.outcome is Outcome.DELIVERED:
            await self._outbox.mark_delivered(item.id, now_us, delivery.detail)
        elif delivery.outcome is Outcome.DISABLED:
            log.error("webhook is gone and disabled", url=self._webhook.url, answer=delivery.detail)
            await self._outbox.mark_retry(item.id, now_us, delivery.detail)
            await self._outbox.disable_target(now_us, delivery.detail)
        elif now_us - item.at_us > GIVE_UP_AFTER_S * 1e6:
            log.error("gave up on a delivery", id=item.id, answer=delivery.detail)
            self._on_result("failed")
            await self._outbox.mark_failed(item.id, now_us, delivery.detail)
        else:
            wait_s = delivery.retry_after_s or pause_s(item.attempts)
            log.warning("delivery failed, will retry", id=item.id, answer=delivery.detail, wait_s=round(wait_s, 1))
            await self._outbox.mark_retry(item.id, now_us + int(wait_s * 1e6), delivery.detail)

    async def deliver_direct(self, items: Sequence[T]) -> list[T]:
        """Send past the outbox, once, each alarm's items in order; those that were received."""
        by_alarm: dict[str, list[T]] = {}
        for item in items:
            by_alarm.setdefault(item.alarm_id, []).append(item)
        room = asyncio.Semaphore(AT_ONCE)
        received = await asyncio.gather(*(self._send_in_order(mine, room) for mine in by_alarm.values()))
        return [item for mine in received for item in mine]

    async def _send_in_order(self, items: list[T], room: asyncio.Semaphore) -> list[T]:
        """The items of one alarm, up to the first that is not received."""
        received: list[T] = []
        async with room:
            for item in items:
                if (await self._send(item, "direct")).outcome is not Outcome.DELIVERED:
                    break
                received.append(item)
        return received


def pause_s(attempts: int) -> float:
    """Pause after so many attempts, with jitter so that receivers are not hit in step."""
    return SCHEDULE_S[min(attempts, len(SCHEDULE_S) - 1)] * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret


def _now_us() -> int:
    return time.time_ns() // 1000
