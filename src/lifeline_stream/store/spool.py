"""A bounded local spool: while the database is away, a group in it counts as committed for its sources."""

from __future__ import annotations

import errno
import fcntl
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from lifeline_stream.core.model import Block, ConditionEvent, ReadingBatch, Reject
from lifeline_stream.errors import FatalError, TransientError
from lifeline_stream.store.group import CommitGroup, OutboxItem
from lifeline_stream.store.recordlog import RecordLog, sync_folder

SEGMENT_BYTES = 16 << 20
"""A segment is closed beyond this; segments are dropped whole."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class SpoolFull(TransientError):  # noqa: N818 - a state to wait for
    """The spool holds all that it may: take nothing more until the database is back."""


@dataclass(slots=True)
class _Segment:
    """One file, and the offsets of its groups that wait."""

    log: RecordLog
    waiting: deque[int]


class Spool:
    """Commit groups on their way to the database, and the outbox items that were delivered ahead of them."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open the folder, or create it, and find what a crash left.

        Args:
            folder: belongs to this spool alone.
            max_bytes: of all groups together.

        Raises:
            TransientError: another process has it open.
            FatalError: a file is damaged elsewhere than at its torn end.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = _lock(folder / "lock")
        self._segments = deque(self._open(path) for path in sorted(folder.glob("*.groups")))
        self._next_segment = 1 + max((int(segment.log.path.stem) for segment in self._segments), default=0)
        self._head: CommitGroup | None = None
        self._deliveries = RecordLog(folder / "delivered.log")
        self.delivered = {self._deliveries.read(offset).decode() for offset in self._deliveries.offsets}
        """Ids of outbox items that were delivered straight from memory."""
        self._forget_empty()

    def close(self) -> None:
        """Close the files; what waits stays on the disk."""
        for segment in self._segments:
            segment.log.close()
        self._deliveries.close()
        os.close(self._lock)

    @property
    def empty(self) -> bool:
        """No group waits."""
        return not self._segments

    @property
    def size_bytes(self) -> int:
        """Bytes on the disk, without the deliveries."""
        return sum(segment.log.size for segment in self._segments)

    def append(self, group: CommitGroup) -> None:
        """Put a group behind the others; on return it is on the disk.

        Raises:
            SpoolFull: there is no room; nothing was added.
            FatalError: the disk failed, so what it holds is not known.
        """
        record = _encode(group)
        if self.size_bytes + len(record) > self._max_bytes:
            raise SpoolFull(f"the spool holds {self.size_bytes} of {self._max_bytes} bytes")
        if not self._segments or self._segments[-1].log.size >= SEGMENT_BYTES:
            self._segments.append(self._open(self._folder / f"{self._next_segment:08d}.groups"))
            self._next_segment += 1
        segment = self._segments[-1]
        try:
            segment.waiting.append(segment.log.append(record))
        except OSError as error:
            self._forget_empty()
            if error.errno in _NO_ROOM:
                raise SpoolFull(f"the disk of the spool is full: {error.strerror}") from error
            raise FatalError(f"{segment.log.path}: {error.strerror}") from error

    def first(self) -> CommitGroup | None:
        """The oldest group, the same object until it is dropped; None when there is none."""
        if self._head is None and self._segments:
            segment = self._segments[0]
            self._head = _decode(segment.log.read(segment.waiting[0]))
        return self._head

    def groups(self) -> Iterator[CommitGroup]:
        """All groups in order, without taking them."""
        for segment in self._segments:
            for offset in segment.waiting:
                yield _decode(segment.log.read(offset))

    def drop(self, through_n: int) -> None:
        """Forget the groups up to a number: the database has them.

        A file goes when all of its groups are dropped; after a crash some may come back, and are found committed.
        """
        while (group := self.first()) is not None and group.seq <= through_n:
            self._segments[0].waiting.popleft()
            self._head = None
            self._forget_empty()

    def record_delivered(self, outbox_id: str) -> None:
        """Note, before its outbox row exists, that an item was delivered.

        Raises:
            FatalError: the disk failed.
        """
        try:
            self._deliveries.append(outbox_id.encode())
        except OSError as error:
            raise FatalError(f"{self._deliveries.path}: {error.strerror}") from error
        self.delivered.add(outbox_id)

    def forget_delivered(self, outbox_ids: Iterable[str]) -> None:
        """Drop notes whose outbox rows are committed."""
        left = self.delivered.difference(outbox_ids)
        if len(left) == len(self.delivered):
            return
        fresh = self._folder / "delivered.new"
        fresh.unlink(missing_ok=True)
        deliveries = RecordLog(fresh)
        for outbox_id in left:
            deliveries.append(outbox_id.encode())
        self._deliveries.close()
        fresh.rename(self._folder / "delivered.log")
        deliveries.path = self._folder / "delivered.log"
        sync_folder(self._folder)
        self._deliveries, self.delivered = deliveries, left

    def _open(self, path: Path) -> _Segment:
        log = RecordLog(path)
        return _Segment(log, deque(log.offsets))

    def _forget_empty(self) -> None:
        while self._segments and not self._segments[0].waiting:
            log = self._segments.popleft().log
            log.close()
            log.path.unlink()
            sync_folder(self._folder)


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise TransientError(f"{path.parent}: another process has this spool open") from None
    return fd


class _Stored(msgspec.Struct, array_like=True):
    """A group as it lies on the disk."""

    seq: int
    now_us: int
    watch_from_us: int
    declaration_hash: str
    token: str
    columns: tuple[bytes, bytes, bytes, bytes, bytes]
    blocks: list[tuple[int, int, float, bytes, int]]
    rejects: list[Reject]
    events: list[ConditionEvent]
    outbox: list[OutboxItem]
    state: bytes | None
    looked_back: tuple[list[ConditionEvent], list[OutboxItem]] | None


_DTYPES = (np.int32, np.int64, np.float64, np.uint8, np.int32)


def _encode(group: CommitGroup) -> bytes:
    batch = group.batch
    columns = (batch.channel_ix, batch.ts_us, batch.value, batch.quality, group.gateway_lag_ms)
    stored = _Stored(
        group.seq,
        group.now_us,
        group.watch_from_us,
        group.declaration_hash,
        group.token,
        tuple(np.asarray(c, dtype).tobytes() for c, dtype in zip(columns, _DTYPES, strict=True)),  # type: ignore[arg-type]
        [(b.channel_ix, b.t0_us, b.rate_hz, b.samples.tobytes(), b.quality) for b in group.blocks],
        group.rejects,
        group.events,
        group.outbox,
        group.state,
        group.looked_back,
    )
    return msgspec.msgpack.encode(stored)


def _decode(record: bytes) -> CommitGroup:
    stored = msgspec.msgpack.decode(record, type=_Stored)
    columns = [np.frombuffer(c, dtype).copy() for c, dtype in zip(stored.columns, _DTYPES, strict=True)]
    return CommitGroup(
        seq=stored.seq,
        now_us=stored.now_us,
        watch_from_us=stored.watch_from_us,
        declaration_hash=stored.declaration_hash,
        batch=ReadingBatch(*columns[:4]),
        gateway_lag_ms=columns[4],
        blocks=[Block(c, t0, rate, np.frombuffer(s, np.float32).copy(), q) for c, t0, rate, s, q in stored.blocks],
        rejects=stored.rejects,
        events=stored.events,
        outbox=stored.outbox,
        state=stored.state,
        token=stored.token,
        _late=stored.looked_back,
    )
