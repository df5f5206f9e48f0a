"""What the database refuses for good: found by bisection, made rejects, so that one value never blocks the rest."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lifeline_stream.core.model import Block, ConditionEvent, ReadingBatch, Reject, RejectReason
from lifeline_stream.store.database import FOREIGN, Connection, Fault, fault_of, transaction
from lifeline_stream.store.group import OutboxItem

_SINGLY = 100
"""After this many single refusals whole stretches are refused together: a constraint that nothing passes must not cost
two savepoints a row."""
_TOGETHER = 400
"""Longest such stretch; its rows as JSON fit the 64 KiB of a payload."""

Write = Callable[[int, int], Awaitable[Any]]
"""Write the items from the first to before the last."""
Describe = Callable[[int, int], str]
"""The same items as JSON."""


@dataclass(slots=True)
class Sieve:
    """Writes the parts of a group; in careful mode finds what can't be written.

    A group is first written without savepoints. When the database refuses a value the transaction is over, and the
    group is tried once more, carefully.
    """

    connection: Connection
    careful: bool
    rejects: list[Reject] = field(default_factory=list)

    async def write(self, n: int, write: Write, describe: Describe) -> None:
        """Write n items in order; leave out and keep as rejects those that are refused."""
        if n and not self.careful:
            await write(0, n)
            return
        stretches = [(0, n)] if n else []
        while stretches:
            first, last = stretches.pop()
            try:
                async with transaction(self.connection):
                    await write(first, last)
            except FOREIGN as error:
                if fault_of(error) is not Fault.DATA:
                    raise
                if self._is_final(last - first):
                    self._refuse(error, last - first, describe(first, last))
                else:
                    middle = (first + last) // 2
                    stretches += [(middle, last), (first, middle)]

    def _is_final(self, n: int) -> bool:
        return n == 1 or (n <= _TOGETHER and len(self.rejects) >= _SINGLY)

    def _refuse(self, error: BaseException, n: int, payload: str) -> None:
        detail = f"the database refused it: {getattr(error, 'sqlstate', None) or type(error).__name__} {error}"
        self.rejects.append(Reject(RejectReason.STORE_REFUSED, detail, payload.encode(), n_readings=n))


def readings_as_json(batch: ReadingBatch) -> str:
    """Readings as a JSON list, one object each."""
    rows = zip(
        batch.channel_ix.tolist(), batch.ts_us.tolist(), batch.value.tolist(), batch.quality.tolist(), strict=True
    )
    return _json([{"channel_ix": c, "ts_us": t, "value": v, "quality": q} for c, t, v, q in rows])


def blocks_as_json(blocks: Sequence[Block]) -> str:
    """Waveforms as a JSON list."""
    return _json([asdict(block) for block in blocks])


def events_as_json(events: Sequence[ConditionEvent]) -> str:
    """Condition events as a JSON list."""
    return _json([asdict(event) for event in events])


def outbox_as_json(items: Sequence[OutboxItem]) -> str:
    """Outbox items as a JSON list."""
    return _json([asdict(item) for item in items])


def _json(found: Any) -> str:  # noqa: ANN401 - plain data
    return json.dumps(found, ensure_ascii=False, default=_plain)


def _plain(found: object) -> object:
    if isinstance(found, np.ndarray):
        return found.tolist()
    if isinstance(found, bytes):
        return found.decode("utf-8", "replace")
    raise TypeError(f"no JSON for {type(found).__name__}")
