"""What was taken and is not safe yet, within its bounds."""

from __future__ import annotations

import numpy as np
import pytest

from lifeline_stream.core.model import Block, ReadingBatch, Reject, RejectReason
from lifeline_stream.core.normalize import Normalized
from lifeline_stream.settings import Ingest
from lifeline_stream.sources import Message, Token
from lifeline_stream.window import DETAIL_CHARACTERS, Gathering

T_US = 1_760_000_000_000_000
LIMITS = Ingest(group_rows=10, group_bytes=1000, window_messages=50)


def message(payload: bytes = b"{}") -> Message:
    return Message("lifeline/v1/G1/D1/up", payload, T_US, "G1", "D1", Token(1, 1, 1))


def found(n_readings: int = 0, n_samples: int = 0, rejects: tuple[Reject, ...] = ()) -> Normalized:
    zeros = np.zeros(n_readings)
    ts_us = T_US + np.arange(n_readings)
    batch = ReadingBatch(zeros.astype(np.int32), ts_us, zeros, zeros.astype(np.uint8))
    blocks = [Block(0, T_US + 5, 100.0, np.zeros(n_samples, np.float32))] if n_samples else []
    return Normalized(batch, np.zeros(n_readings, np.int32), blocks, list(rejects), 0, 0, in_doubt=False)


def test_the_newest_of_a_group_may_be_a_waveform() -> None:
    group = Gathering(0.0)
    assert group.newest_us == 0
    group.add(message(), found(n_readings=3))
    assert group.newest_us == T_US + 2
    group.add(message(), found(n_samples=1))
    assert group.newest_us == T_US + 5


@pytest.mark.parametrize(
    ("messages", "is_full"),
    [
        ([(b"{}", found(n_readings=9))], False),
        ([(b"{}", found(n_readings=9)), (b"{}", found(n_samples=1))], True),
        ([(b"x" * 999, found())], False),
        ([(b"x" * 1000, found())], True),
        ([(b"", found())] * 9, False),
        ([(b"", found())] * 10, True),
    ],
)
def test_a_group_is_full_by_rows_by_bytes_or_by_what_a_nearly_full_window_has_left(
    messages: list[tuple[bytes, Normalized]], *, is_full: bool
) -> None:
    group = Gathering(0.0)
    for payload, normalized in messages:
        group.add(message(payload), normalized)
    assert group.is_full(LIMITS) is is_full


def test_a_reject_keeps_the_beginning_of_its_message_and_of_its_reason() -> None:
    group = Gathering(0.0)
    group.add(message(b"x" * 100_000), found(rejects=(Reject(RejectReason.MALFORMED, "y" * 5000, n_readings=7),)))
    (reject,) = group.rejects
    assert (len(reject.payload), reject.source, reject.n_readings) == (65_536, "lifeline/v1/G1/D1/up", 7)
    assert reject.detail == "y" * DETAIL_CHARACTERS + " …"
