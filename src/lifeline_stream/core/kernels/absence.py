"""Absence 离线: a channel that stopped reporting, found by a timer and not reset by its gateway being alive."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.kernels import CLEARED, NEVER, RAISED, emit, njit
from lifeline_stream.core.model import Quality
from lifeline_stream.core.packs import Absence, severity_of

EVENTS_PER_ROW = 2
"""In event time one reading can both reveal a silence and end it."""

STALE, COMMS_FAULT, MISSING = int(Quality.STALE), int(Quality.COMMS_FAULT), int(Quality.MISSING)

PARAMS = np.dtype(
    [("intervals", np.float64), ("least_us", np.int64), ("severity", np.uint8), ("event_time", np.uint8)],
    align=True,
)

STATE = np.dtype(
    [("newest_us", np.int64), ("onset_us", np.int64), ("raised_us", np.int64), ("severity", np.uint8)],
    align=True,
)


def fresh(n: int) -> npt.NDArray[Any]:
    """State of n detectors that have seen nothing."""
    state = np.zeros(n, STATE)
    state["newest_us"] = NEVER
    return state


def params_of(detector: Absence) -> npt.NDArray[Any]:
    """PARAMS[1] of a detector; `event_time` is set by the engine."""
    row = (detector.after_intervals, round(detector.at_least_s * 1e6), severity_of(detector.severity), 0)
    return np.array([row], PARAMS)


@njit
def patience(p, every_us):
    """How long a channel may be silent, µs."""
    return max(p.least_us, np.int64(p.intervals * every_us))


@njit
def miss(state, i, since_us, wait_us, severity, out, n):
    """Raise: silent since `since_us`, noticed `wait_us` later; the statistic is the silence, s."""
    s = state[i]
    s.severity, s.onset_us, s.raised_us = severity, since_us, since_us + wait_us
    return emit(out, n, i, RAISED, severity, s.raised_us, since_us, wait_us / 1e6, wait_us / 1e6)


@njit
def step(ch, ts, value, quality, unmet, start, table, params, state, out, row):  # noqa: ARG001
    """Note who reported; see the package for the arguments. A reading without a value is no sign of life.

    >>> from lifeline_stream.core.cases import one_detector
    >>> one_detector("absence", {"severity": "blue"}, every_s=60, values=[1, 1, None, None, None, None, 1])
    ['raised 1 at 240 s', 'cleared 1 at 360 s']
    """
    n = 0
    for r in range(row, len(ch)):
        first, last = start[ch[r]], start[ch[r] + 1]
        if n + EVENTS_PER_ROW * (last - first) > len(out):
            return r, n
        if quality[r] in (STALE, COMMS_FAULT, MISSING):
            continue
        for i in range(first, last):
            s, t = state[i], table[i]
            p = params[t.par]
            wait_us = patience(p, t.every_us)
            if p.event_time and s.severity == 0 and s.newest_us != NEVER and ts[r] - s.newest_us > wait_us:
                n = miss(state, i, s.newest_us, wait_us, p.severity, out, n)
            if s.severity:
                at_us = max(ts[r], s.raised_us)
                silent_s = (at_us - s.onset_us) / 1e6
                n = emit(out, n, i, CLEARED, s.severity, at_us, s.onset_us, silent_s, wait_us / 1e6)
                s.severity = 0
            s.newest_us = max(s.newest_us, ts[r])
    return len(ch), n


@njit
def advance(now_us, watch_from_us, table, params, state, out, row):
    """Raise what has been silent for too long at `now_us`, from instance `row` on; (next instance, n_out).

    A channel's silence starts at its newest reading, and no earlier than `watch_from_us`, when the source last resumed.
    A channel that never reported is due from then on; without such a time (-1) it is not due.
    """
    n = 0
    for i in range(row, len(table)):
        if n == len(out):
            return i, n
        s, t = state[i], table[i]
        p = params[t.par]
        since_us = max(s.newest_us, watch_from_us)
        wait_us = patience(p, t.every_us)
        if s.severity == 0 and since_us != NEVER and now_us - since_us > wait_us:
            n = miss(state, i, since_us, wait_us, p.severity, out, n)
    return len(table), n
