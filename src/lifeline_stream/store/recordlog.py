"""A file of records that survives a crash: what `append` returned from is on the disk.

A record is magic, length, CRC-32 and payload, and one append writes one record and syncs it. So after a crash only the
last record can be torn, and nobody was told that it is safe; anything else that does not check is damage.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import structlog

from lifeline_stream.errors import FatalError

_HEAD = struct.Struct("<4sII")
_MAGIC = b"LLR1"

log = structlog.get_logger(__name__)


class RecordLog:
    """One file, open for appending and reading."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, and cut off a torn last record.

        Raises:
            FatalError: it is damaged before its end.
        """
        self.path = path
        is_new = not path.exists()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if is_new:
            sync_folder(path.parent)
        self.size = 0
        """Bytes of whole records."""
        try:
            self.offsets = self._recover()
        except FatalError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def append(self, payload: bytes) -> int:
        """Write and sync one record; return its offset.

        Raises:
            OSError: nothing was added.
            FatalError: what the disk holds is not known.
        """
        record = _HEAD.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload
        offset = self.size
        try:
            self._write(record, offset)
        except OSError:
            self._cut(offset)
            raise
        self._sync()
        self.size += len(record)
        self.offsets.append(offset)
        return offset

    def read(self, offset: int) -> bytes:
        """Payload of the record at an offset.

        Raises:
            FatalError: it does not check.
        """
        payload = self._payload(offset)
        if payload is None:
            raise FatalError(f"{self.path}: damaged at byte {offset}; restore the file or move it away")
        return payload

    def _recover(self) -> list[int]:
        """Offsets of the records; what follows the last is cut off."""
        offsets, at, end = [], 0, os.fstat(self._fd).st_size
        while at < end and (payload := self._payload(at)) is not None:
            offsets.append(at)
            at += _HEAD.size + len(payload)
        if at < end:
            self._judge_tail(at, end)
            self._cut(at)
        self.size = at
        return offsets

    def _judge_tail(self, at: int, end: int) -> None:
        """One append at a time: a record whose head is whole and which others follow was synced, so it is damaged."""
        head = os.pread(self._fd, _HEAD.size, at)
        if len(head) == _HEAD.size:
            magic, length, _ = _HEAD.unpack(head)
            if magic == _MAGIC and at + _HEAD.size + length < end:
                raise FatalError(f"{self.path}: damaged at byte {at}; restore the file or move it away")
        log.warning("torn record cut off", file=str(self.path), bytes=end - at)

    def _payload(self, offset: int) -> bytes | None:
        """Payload of the record at an offset, or None where there is no whole record."""
        head = os.pread(self._fd, _HEAD.size, offset)
        if len(head) < _HEAD.size:
            return None
        magic, length, crc = _HEAD.unpack(head)
        if magic != _MAGIC:
            return None
        payload = os.pread(self._fd, length, offset + _HEAD.size)
        return payload if len(payload) == length and zlib.crc32(payload) == crc else None

    def _write(self, record: bytes, offset: int) -> None:
        written = 0
        while written < len(record):
            written += os.pwrite(self._fd, memoryview(record)[written:], offset + written)

    def _cut(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise FatalError(f"{self.path}: can't be cut to {size} bytes: {error.strerror}") from error
        self._sync()

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:  # the kernel may have dropped the pages: a second try would lie
            raise FatalError(f"{self.path}: can't be synced: {error.strerror}") from error


def sync_folder(folder: Path) -> None:
    """Make new and removed names of a folder survive a crash."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
