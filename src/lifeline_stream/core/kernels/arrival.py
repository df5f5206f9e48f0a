"""Arrival 到达: what each reading is by its time: new, late, a duplicate, in conflict, or nonsense."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.kernels import NEVER, njit
from lifeline_stream.core.model import BACKFILL, RESTARTED
from lifeline_stream.core.model import LATE as LATE_BIT

FUTURE_US = 300_000_000
"""A stamp further ahead of received time than this is refused and never becomes a channel's newest."""
YEAR_2000_US = 946_684_800_000_000
RESTART_AFTER = 3
"""Successive late readings in doubt, rising, that restart a channel's newest."""
DOUBT_RATIO = 2
"""A late reading puts its channel's newest in doubt when it lies so many times nearer to received time."""

NEW, AGAIN, LATE, DOUBT, DUPLICATE, CONFLICT, FUTURE, PAST = 0, 1, 2, 3, 4, 5, 6, 7
"""AGAIN is new to a channel that restarted, at a time that it may have reported before; DOUBT is late, and counts
towards a restart."""

STATE = np.dtype(
    [
        ("newest_us", np.int64),
        ("value", np.float64),
        ("top_us", np.int64),
        ("late_us", np.int64),
        ("n_late", np.int32),
    ],
    align=True,
)
"""Newest reading of a channel, the greatest time it ever had, and the run of late readings that may restart it."""


def fresh(n: int) -> npt.NDArray[Any]:
    """State of n channels that have reported nothing."""
    state = np.zeros(n, STATE)
    state["newest_us"] = state["top_us"] = state["late_us"] = NEVER
    return state


@njit
def doubts(s, ts_us, received_us):
    """Whether a late reading shows that the channel's newest may have come of a clock that was ahead.

    Nothing else makes a true reading late for long, and what a broker hands over twice doubts nothing: by then the
    newest lies no longer ahead of received time.
    """
    return DOUBT_RATIO * abs(received_us - ts_us) < s.newest_us - received_us


@njit
def count(s, ts_us, value):
    """Count a late reading in doubt; whether it is the last of a run, and the channel's newest is set back to it."""
    s.n_late = s.n_late + 1 if ts_us > s.late_us else 1
    s.late_us = ts_us
    if s.n_late < RESTART_AFTER:
        return False
    renew(s, ts_us, value)
    return True


@njit
def renew(s, ts_us, value):
    """Make a reading the channel's newest."""
    s.newest_us, s.value, s.n_late, s.late_us = ts_us, value, 0, NEVER


@njit
def classify(ch, ts, value, quality, received_us, state, verdict):
    """Judge readings in the order they came, writing one of NEW to PAST for each; return how many channels restarted.

    ch: int32[n]; ts: int64[n], µs; value: float64[n]; quality: uint8[n] with arrival bits; received_us: int64;
    state: STATE[n_ix]; verdict: uint8[n], output. A declared backfill is late whatever its time.

    >>> import numpy as np
    >>> verdict = np.zeros(4, np.uint8)
    >>> ts = np.array([10, 20, 15, 20]) + 1_700_000_000_000_000
    >>> classify(np.zeros(4, np.int32), ts, np.array([1.0, 2, 3, 2]), verdict.copy(), ts[1], fresh(1), verdict)
    0
    >>> verdict
    array([0, 0, 2, 4], dtype=uint8)
    """
    n_restarted = 0
    for r in range(len(ch)):
        s = state[ch[r]]
        if ts[r] < YEAR_2000_US:
            verdict[r] = PAST
        elif ts[r] > received_us + FUTURE_US:
            verdict[r] = FUTURE
        elif quality[r] & BACKFILL:
            verdict[r] = LATE
        elif ts[r] > s.newest_us:
            verdict[r] = NEW if ts[r] > s.top_us else AGAIN
            renew(s, ts[r], value[r])
            s.top_us = max(s.top_us, ts[r])
        elif ts[r] == s.newest_us:
            same = (value[r] == s.value) or (np.isnan(value[r]) and np.isnan(s.value))
            verdict[r] = DUPLICATE if same else CONFLICT
        elif doubts(s, ts[r], received_us):
            verdict[r] = DOUBT
            n_restarted += count(s, ts[r], value[r])
        else:
            verdict[r] = LATE
    return n_restarted


@njit
def observe(ch, ts, value, quality, state):
    """Follow readings that were judged before, by their arrival bits, to the state that `classify` left.

    The same columns; of each channel in the order of time, as no group holds a restart that is not its beginning.
    """
    for r in range(len(ch)):
        s = state[ch[r]]
        if not quality[r] & LATE_BIT:
            renew(s, ts[r], value[r])
            s.top_us = max(s.top_us, ts[r])
        elif quality[r] & RESTARTED:
            count(s, ts[r], value[r])
