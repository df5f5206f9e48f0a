"""Numba kernels, one file per family of detector, all with one signature.

    step(ch, ts, value, quality, unmet, start, table, params, state, out, row) -> (row, n_out)

    ch: int32[n], channel index              start: int32[n_ix + 1], first instance of a channel in `table`
    ts: int64[n], event time, µs             table: INSTANCE[m], which detector watches which channel
    value: float64[n], canonical unit        params: PARAMS[d] of the family, one per detector and sensor type
    quality: uint8[n], quality flag          state: STATE[m] of the family, changed in place
    unmet: uint8[n], needs that don't hold   out: EVENT[k], filled from 0; row: first row to take

A kernel stops early when `out` could overflow; the caller empties it and goes on from the returned row. Durations are
int64 µs. A kernel reads nothing but its arguments, so the same rows in other batches give the same events.
"""

from __future__ import annotations

import numba
import numpy as np

from lifeline_stream.core.model import Quality

njit = numba.njit(cache=True, nogil=True)
"""Compiled once, cached on disk; plain loops, no fast-math, so results equal the scalar twins to the last bit."""

INSTANCE = np.dtype(
    [
        ("channel", np.int32),
        ("par", np.int32),
        ("every_us", np.int64),
        ("needs", np.uint8),
        ("over_range", np.uint8),
    ],
    align=True,
)
"""One detector on one channel: row of `params`, reporting interval, mask of needs, whether over-range raises."""

EVENT = np.dtype(
    [
        ("inst", np.int32),
        ("kind", np.uint8),
        ("severity", np.uint8),
        ("at_us", np.int64),
        ("onset_us", np.int64),
        ("value", np.float64),
        ("limit", np.float64),
    ],
    align=True,
)
RAISED, ESCALATED, DEESCALATED, CLEARED = 0, 1, 2, 3

GAP_INTERVALS = 3
"""A gap longer than this many reporting intervals adds nothing to a duration: stale is not still bad."""

NEVER = np.int64(-1)
"""No time yet; also *not running* for a duration."""

GOOD, SUSPECT, OVER_RANGE, MANUAL = (
    int(Quality.GOOD),
    int(Quality.SUSPECT),
    int(Quality.OVER_RANGE),
    int(Quality.MANUAL),
)


@njit
def usable(quality, unmet, instance):
    """Whether a reading may move a detector: good enough, and every need holds.

    An unusable reading neither raises nor clears, so a drowned, stale or faulty sensor never clears an alarm.
    """
    if unmet & instance.needs:
        return False
    if quality == OVER_RANGE:
        return instance.over_range == 1
    return quality in (GOOD, SUSPECT, MANUAL)


@njit
def elapsed(last_us, ts_us, every_us):
    """Time to add to a running duration, µs: 0 over a gap, at the first reading, or when time does not advance."""
    if last_us < 0 or ts_us <= last_us or ts_us - last_us > GAP_INTERVALS * every_us:
        return 0
    return ts_us - last_us


@njit
def emit(out, n, inst, kind, severity, at_us, onset_us, value, limit):
    """Write one event to `out[n]`."""
    out[n].inst = inst
    out[n].kind = kind
    out[n].severity = severity
    out[n].at_us = at_us
    out[n].onset_us = onset_us
    out[n].value = value
    out[n].limit = limit
    return n + 1
