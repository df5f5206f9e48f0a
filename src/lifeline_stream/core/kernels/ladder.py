"""Threshold ladder 分级限值: limits on both sides with dead-band, on-delay and off-delay."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.kernels import (
    CLEARED,
    DEESCALATED,
    ESCALATED,
    NEVER,
    OVER_RANGE,
    RAISED,
    elapsed,
    emit,
    njit,
    usable,
)
from lifeline_stream.core.packs import Ladder, Limits

GRADES = 4

PARAM_FIELDS = [
    ("above", np.float64, (GRADES,)),
    ("below", np.float64, (GRADES,)),
    ("margin_above", np.float64),
    ("margin_below", np.float64),
    ("on_us", np.int64),
    ("off_us", np.int64),
]
PARAMS = np.dtype(PARAM_FIELDS, align=True)
"""Limits by grade, NaN where unset: no comparison with NaN holds, so an unset grade never raises and never holds."""

STATE_FIELDS = [
    ("last_us", np.int64),
    ("onset_us", np.int64),
    ("up_us", np.int64, (GRADES,)),
    ("fall_us", np.int64, (GRADES,)),
    ("severity", np.uint8),
    ("low_side", np.uint8),
]
STATE = np.dtype(STATE_FIELDS, align=True)
"""Per grade, how long the reading has been past its limit, and back within its dead-band; `NEVER` when it is not."""


def fresh(n: int, dtype: np.dtype[Any] = STATE) -> npt.NDArray[Any]:
    """State of n detectors that have seen nothing, in a dtype that holds the fields of STATE."""
    state = np.zeros(n, dtype)
    for field in ("last_us", "onset_us", "up_us", "fall_us"):
        state[field] = NEVER
    return state


def params_of(detector: Ladder, dtype: np.dtype[Any] = PARAMS) -> npt.NDArray[Any]:
    """The parameters of a detector, of shape [1], in a dtype that holds the fields of PARAMS.

    The dead-band is the distance from the lowest limit of a side to where that side clears.
    """
    params = np.zeros(1, dtype)
    params["above"], params["below"] = _limits(detector.above), _limits(detector.below)
    if detector.clear_below is not None:
        params["margin_above"] = detector.above.given()[0] - detector.clear_below
    if detector.clear_above is not None:
        params["margin_below"] = detector.clear_above - detector.below.given()[0]
    params["on_us"], params["off_us"] = round(detector.on_delay_s * 1e6), round(detector.off_delay_s * 1e6)
    return params


def _limits(limits: Limits) -> list[float]:
    return [np.nan if limit is None else limit for limit in limits.as_list()]


@njit
def climb(state, i, p, every_us, ts_us, x, believed, out, n):
    """Move one ladder by one usable value; return the new number of events in `out`.

    A grade is reached after `on_us` past its limit, and lost after `off_us` within its dead-band; the severity is the
    highest grade reached or not yet lost. So a clear skips the steps between. A value that is not `believed` (over
    range) is within no dead-band: it raises and never clears.
    """
    s = state[i]
    dt = elapsed(s.last_us, ts_us, every_us)
    s.last_us = ts_us
    top = held = 0
    past_any = False
    for grade in range(GRADES):
        past = (x >= p.above[grade]) or (x <= p.below[grade])
        within = not (x >= p.above[grade] - p.margin_above) and not (x <= p.below[grade] + p.margin_below) and believed
        s.up_us[grade] = run(s.up_us[grade], past, dt)
        s.fall_us[grade] = run(s.fall_us[grade], within, dt)
        past_any |= past
        if past and s.up_us[grade] >= p.on_us:
            top = grade + 1
        if grade < s.severity and reachable(p, grade) and not (within and s.fall_us[grade] >= p.off_us):
            held = grade + 1
    if s.severity == 0:
        if not past_any:
            s.onset_us = NEVER
        elif s.onset_us == NEVER:
            s.onset_us = ts_us
    return settle(state, i, p, ts_us, x, max(top, held), out, n)


@njit
def run(duration_us, holds, dt_us):
    """Advance a duration: it starts at 0 on the first reading at which the condition holds."""
    if not holds:
        return NEVER
    return np.int64(0) if duration_us == NEVER else duration_us + dt_us


@njit
def reachable(p, grade):
    """Whether the grade has a limit on either side."""
    return not (np.isnan(p.above[grade]) and np.isnan(p.below[grade]))


@njit
def settle(state, i, p, ts_us, x, severity, out, n):
    """Set the severity and emit the event of its change, if it changed."""
    s = state[i]
    before = s.severity
    if severity == before:
        return n
    s.severity = severity
    if severity > before:
        s.low_side = 1 if x <= p.below[severity - 1] else 0
        limit = p.below[severity - 1] if s.low_side else p.above[severity - 1]
        return emit(out, n, i, ESCALATED if before else RAISED, severity, ts_us, s.onset_us, x, limit)
    if severity:
        limit = p.below[before - 1] if s.low_side else p.above[before - 1]
        return emit(out, n, i, DEESCALATED, severity, ts_us, s.onset_us, x, limit)
    n = emit(out, n, i, CLEARED, before, ts_us, s.onset_us, x, clearing_limit(p, s.low_side))
    s.onset_us = NEVER
    return n


@njit
def clearing_limit(p, low_side):
    """Where the lowest grade of a side clears."""
    for grade in range(GRADES):
        if low_side and not np.isnan(p.below[grade]):
            return p.below[grade] + p.margin_below
        if not low_side and not np.isnan(p.above[grade]):
            return p.above[grade] - p.margin_above
    return np.nan


@njit
def step(ch, ts, value, quality, unmet, start, table, params, state, out, row):
    """Run the readings through their ladders; see the package for the arguments.

    >>> from lifeline_stream.core.cases import one_detector
    >>> one_detector("threshold", {"above": {"yellow": 1.0}}, every_s=60, values=[0.2, 1.4, 1.5, 0.3])
    ['raised 2 at 60 s', 'cleared 2 at 180 s']
    """
    n = 0
    for r in range(row, len(ch)):
        first, last = start[ch[r]], start[ch[r] + 1]
        if n + last - first > len(out):
            return r, n
        for i in range(first, last):
            t = table[i]
            if usable(quality[r], unmet[r], t):
                n = climb(state, i, params[t.par], t.every_us, ts[r], value[r], quality[r] != OVER_RANGE, out, n)
    return len(ch), n
