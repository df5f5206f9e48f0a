"""Conversion 换算: a message's values in canonical units, and what lies outside the plausible range flagged."""

from __future__ import annotations

import numpy as np

from lifeline_stream.core.kernels import GOOD, MANUAL, OVER_RANGE, SUSPECT, njit
from lifeline_stream.core.model import FLAG_MASK, Quality

BAD, MISSING = int(Quality.BAD), int(Quality.MISSING)

NAME = np.dtype(
    [("ix", np.int32), ("scale", np.float64), ("offset", np.float64), ("low", np.float64), ("high", np.float64)],
    align=True,
)
"""A channel name that a gateway uses: its channel (-1: refused), value × scale + offset, and its plausible range."""


@njit
def flag(value, quality, low, high):
    """The quality byte of a canonical value: missing or out of range where the gateway itself gave no bad flag.

    >>> int(flag(120.0, 0, 0.0, 100.0)), int(flag(-1.0, 0x80, 0.0, 100.0)) == 0x80 | BAD, int(flag(-1.0, 4, 0.0, 100.0))
    (6, True, 4)
    """
    found = quality & FLAG_MASK
    if found not in (GOOD, SUSPECT, MANUAL):
        return quality
    if np.isnan(value):
        return (quality & ~FLAG_MASK) | MISSING
    if value > high:
        return (quality & ~FLAG_MASK) | OVER_RANGE
    if value < low:
        return (quality & ~FLAG_MASK) | BAD
    return quality


@njit
def convert(names, name_ix, value, quality, channel_out, value_out, quality_out):
    """Convert the rows of one message.

    names: NAME[k]; name_ix: int32[n], row of `names`; value: float64[n], in the gateway's units; quality: uint8[n].
    The outputs are of length n: int32, float64, uint8.
    """
    for r in range(len(name_ix)):
        name = names[name_ix[r]]
        x = value[r] * name.scale + name.offset
        channel_out[r], value_out[r] = name.ix, x
        quality_out[r] = flag(x, quality[r], name.low, name.high)


@njit
def flag_all(value, quality, low, high, quality_out):
    """Flag canonical values: float64[n], uint8[n], float64[n], float64[n] → uint8[n] in `quality_out`."""
    for r in range(len(value)):
        quality_out[r] = flag(value[r], quality[r], low[r], high[r])
