"""Flat line 卡滞: a reading that has not changed for too long, counted only while readings come."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.kernels import CLEARED, NEVER, RAISED, elapsed, emit, njit, usable
from lifeline_stream.core.packs import Flat, severity_of

PARAMS = np.dtype([("tolerance", np.float64), ("after_us", np.int64), ("severity", np.uint8)], align=True)

STATE = np.dtype(
    [
        ("held", np.float64),
        ("since_us", np.int64),
        ("last_us", np.int64),
        ("flat_us", np.int64),
        ("severity", np.uint8),
    ],
    align=True,
)
"""The value that is held, since when, and how long of that time readings came."""


def fresh(n: int) -> npt.NDArray[Any]:
    """State of n detectors that have seen nothing."""
    state = np.zeros(n, STATE)
    state["last_us"] = NEVER
    return state


def params_of(detector: Flat) -> npt.NDArray[Any]:
    """PARAMS[1] of a detector."""
    return np.array([(detector.tolerance, round(detector.after_s * 1e6), severity_of(detector.severity))], PARAMS)


@njit
def hold(state, i, p, every_us, ts_us, x, out, n):
    """Move one flat-line detector by one usable value; its statistic is the time held, s."""
    s = state[i]
    dt = elapsed(s.last_us, ts_us, every_us)
    if s.last_us == NEVER or abs(x - s.held) > p.tolerance:
        if s.severity:
            n = emit(out, n, i, CLEARED, s.severity, ts_us, s.since_us, s.flat_us / 1e6, p.after_us / 1e6)
        s.held, s.since_us, s.flat_us, s.severity = x, ts_us, 0, 0
    else:
        s.flat_us += dt
        if s.flat_us >= p.after_us and s.severity == 0:
            s.severity = p.severity
            n = emit(out, n, i, RAISED, s.severity, ts_us, s.since_us, s.flat_us / 1e6, p.after_us / 1e6)
    s.last_us = ts_us
    return n


@njit
def step(ch, ts, value, quality, unmet, start, table, params, state, out, row):
    """Run the readings through their flat-line detectors; see the package for the arguments.

    >>> from lifeline_stream.core.cases import one_detector
    >>> one_detector("flat", {"after_s": 180, "severity": "blue"}, every_s=60, values=[1, 2, 2, 2, 2, 3])
    ['raised 1 at 240 s', 'cleared 1 at 300 s']
    """
    n = 0
    for r in range(row, len(ch)):
        first, last = start[ch[r]], start[ch[r] + 1]
        if n + last - first > len(out):
            return r, n
        for i in range(first, last):
            t = table[i]
            if usable(quality[r], unmet[r], t):
                n = hold(state, i, params[t.par], t.every_us, ts[r], value[r], out, n)
    return len(ch), n
