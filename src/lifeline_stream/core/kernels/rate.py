"""Rate of change 变化速率: a difference of means, put on a ladder.

Readings are averaged in event-time buckets of `mean_s / BUCKETS`. When a reading opens a new bucket, the mean of the
last BUCKETS buckets less the mean of the BUCKETS that ended `over_s` before is the value; its time is the bucket's end.
Means are used because single samples of a strain or a pressure differ by more than a lasting change does. A reading
over range has no rate: the sensor is at its end, and an alarm must not clear because it stays there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.kernels import NEVER, OVER_RANGE, ladder, njit, usable
from lifeline_stream.core.packs import MAX_RATE_RATIO, Rate

BUCKETS = 5
RING = BUCKETS * (MAX_RATE_RATIO + 1)

PARAMS = np.dtype([("bucket_us", np.int64), ("back", np.int64), *ladder.PARAM_FIELDS], align=True)
"""The bucket's width, how many buckets the earlier mean lies back, and a ladder."""

STATE = np.dtype(
    [("bucket", np.int64), ("sum", np.float64, (RING,)), ("count", np.int32, (RING,)), *ladder.STATE_FIELDS],
    align=True,
)
"""The number of the open bucket since 1970, the ring of sums and counts that ends with it, and a ladder."""


def fresh(n: int) -> npt.NDArray[Any]:
    """State of n detectors that have seen nothing."""
    state = ladder.fresh(n, STATE)
    state["bucket"] = NEVER
    return state


def params_of(detector: Rate) -> npt.NDArray[Any]:
    """PARAMS[1] of a detector."""
    params = ladder.params_of(detector, PARAMS)
    params["bucket_us"] = round(detector.mean_s * 1e6 / BUCKETS)
    params["back"] = round(detector.over_s / detector.mean_s * BUCKETS)
    return params


@njit
def window_mean(s, newest, needed):
    """Mean over the BUCKETS buckets that end with `newest`, or NaN with fewer than `needed` readings."""
    total = 0.0
    count = 0
    for bucket in range(newest - BUCKETS + 1, newest + 1):
        total += s.sum[bucket % RING]
        count += s.count[bucket % RING]
    return total / count if count >= needed else np.nan


@njit
def close(state, i, p, every_us, out, n):
    """Put the difference of means at the end of the open bucket on the ladder.

    Each mean needs half of the readings that its window should hold; with fewer the ladder is not moved.
    """
    s = state[i]
    needed = max(1, BUCKETS * p.bucket_us // (2 * every_us))
    change = window_mean(s, s.bucket, needed) - window_mean(s, s.bucket - p.back, needed)
    if np.isnan(change):
        return n
    at_us, believed = (s.bucket + 1) * p.bucket_us, True
    return ladder.climb(state, i, p, max(every_us, p.bucket_us), at_us, change, believed, out, n)


@njit
def turn(s, bucket):
    """Open `bucket`, emptying the ring's places between it and the one that was open."""
    for skipped in range(max(s.bucket + 1, bucket - RING + 1), bucket + 1):
        s.sum[skipped % RING] = 0.0
        s.count[skipped % RING] = 0
    s.bucket = bucket


@njit
def step(ch, ts, value, quality, unmet, start, table, params, state, out, row):
    """Run the readings through their buckets and ladders; see the package for the arguments.

    >>> from lifeline_stream.core.cases import one_detector
    >>> rate = {"mean_s": 5, "over_s": 10, "above": {"yellow": 2.0}}
    >>> one_detector("rate", rate, every_s=1, values=[0.0] * 20 + [3.0] * 20)
    ['raised 2 at 24 s', 'cleared 2 at 32 s']
    """
    n = 0
    for r in range(row, len(ch)):
        first, last = start[ch[r]], start[ch[r] + 1]
        if n + last - first > len(out):
            return r, n
        for i in range(first, last):
            t = table[i]
            if not usable(quality[r], unmet[r], t) or quality[r] == OVER_RANGE:
                continue
            s = state[i]
            p = params[t.par]
            bucket = ts[r] // p.bucket_us
            if s.bucket == NEVER:
                s.bucket = bucket
            elif bucket > s.bucket:
                n = close(state, i, p, t.every_us, out, n)
                turn(s, bucket)
            elif bucket <= s.bucket - RING:
                continue
            s.sum[bucket % RING] += value[r]
            s.count[bucket % RING] += 1
    return len(ch), n
