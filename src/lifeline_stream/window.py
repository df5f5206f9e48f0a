"""What was taken and is not safe yet: messages gather into a group, groups wait for their commit, within bounds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.model import Block, ReadingBatch, Reject
from lifeline_stream.core.normalize import Normalized
from lifeline_stream.settings import Ingest
from lifeline_stream.sources import Message
from lifeline_stream.store.writer import PAYLOAD_BYTES, CommitGroup

DETAIL_CHARACTERS = 1000
NEARLY_FULL = 0.8
"""Share of the window at which groups go to the spool while commits fail."""


@dataclass(slots=True)
class Gathering:
    """Messages on their way into one commit group."""

    opened_s: float
    messages: list[Message] = field(default_factory=list)
    batches: list[ReadingBatch] = field(default_factory=list)
    lags_ms: list[npt.NDArray[np.int32]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    n_rows: int = 0
    n_bytes: int = 0

    def add(self, message: Message, found: Normalized) -> None:
        """Take one message as it was normalised."""
        self.messages.append(message)
        if len(found.batch):
            self.batches.append(found.batch)
            self.lags_ms.append(found.gateway_lag_ms)
        self.blocks += found.blocks
        self.rejects += [_kept(reject, message) for reject in found.rejects]
        self.n_rows += len(found.batch) + sum(len(block.samples) for block in found.blocks)
        self.n_bytes += len(message.payload)

    @property
    def newest_us(self) -> int:
        """Event time of the last reading or block that was taken, µs; 0 when there is none."""
        last_us = [int(batch.ts_us[-1]) for batch in self.batches[-1:]] + [block.t0_us for block in self.blocks[-1:]]
        return max(last_us, default=0)

    def is_full(self, limits: Ingest) -> bool:
        """Whether the group must close: by its own limits, or before it fills what a nearly full window has left."""
        n_most = (1 - NEARLY_FULL) * limits.window_messages
        return self.n_rows >= limits.group_rows or self.n_bytes >= limits.group_bytes or len(self.messages) >= n_most


def _kept(reject: Reject, message: Message) -> Reject:
    """A reject as it goes to the dead letters, with the beginning of its message."""
    cut = len(reject.detail) > DETAIL_CHARACTERS
    detail = f"{reject.detail[:DETAIL_CHARACTERS]} …" if cut else reject.detail
    return replace(reject, detail=detail, payload=message.payload[:PAYLOAD_BYTES], source=message.topic)


@dataclass(slots=True)
class Pending:
    """A group that detection has passed and the database has not."""

    group: CommitGroup
    messages: list[Message]
    live_state: bytes | None
    opened_s: float
    n_rows: int
    n_bytes: int


class Window:
    """Groups in order, neither committed nor spooled."""

    def __init__(self, limits: Ingest) -> None:
        """Nothing waits."""
        self._limits = limits
        self._groups: deque[Pending] = deque()
        self.n_messages = self.n_rows = self.n_bytes = 0

    def __len__(self) -> int:
        """Number of groups."""
        return len(self._groups)

    @property
    def first(self) -> Pending:
        """The oldest group."""
        return self._groups[0]

    def append(self, pending: Pending) -> None:
        """Put a group behind the others."""
        self._groups.append(pending)
        self._count(pending, 1)

    def pop(self) -> Pending:
        """Let the oldest group go: it is safe."""
        pending = self._groups.popleft()
        self._count(pending, -1)
        return pending

    def _count(self, pending: Pending, sign: int) -> None:
        self.n_messages += sign * len(pending.messages)
        self.n_rows += sign * pending.n_rows
        self.n_bytes += sign * pending.n_bytes

    @property
    def oldest_s(self) -> float | None:
        """When, by the monotonic clock, the oldest group with a message was opened."""
        return next((p.opened_s for p in self._groups if p.messages), None)

    @property
    def has_room(self) -> bool:
        """Whether another group may be taken."""
        return self._share < 1

    @property
    def is_nearly_full(self) -> bool:
        """Whether it is time for the spool."""
        return self._share >= NEARLY_FULL

    @property
    def _share(self) -> float:
        limits = self._limits
        return max(
            self.n_messages / limits.window_messages,
            self.n_rows / limits.window_rows,
            self.n_bytes / limits.window_bytes,
        )
