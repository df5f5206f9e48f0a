"""Chance that needs no memory: a draw is a hash of a key and a counter.

So a reading's noise depends on its channel and its time and on nothing else: the simulated city says the same whatever
the ticks it is asked in, live or recorded, and any single reading can be computed again.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.model import Float64s, Int64s

UInt64s: TypeAlias = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = (np.uint64(s) for s in (27, 30, 31, 32))
_LOW = np.uint64(0xFFFFFFFF)

NORMAL_BOUND = 4.0
"""Normal draws are cut here, so that a quiet signal has a bound."""


def key_of(seed: int, *names: str) -> int:
    """A 64-bit key of a seed and names.

    >>> key_of(1, "a", "b") == key_of(1, "ab")
    False
    """
    text = "\0".join((str(seed), *names))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def keys_of(seed: int, purpose: str, names: list[str]) -> UInt64s:
    """uint64[n]: one key per name."""
    return np.array([key_of(seed, purpose, name) for name in names], np.uint64)


def mix(key: UInt64s, counter: Int64s) -> UInt64s:
    """uint64[n]: the SplitMix64 hash of key and counter (Steele, Lea & Flood 2014).

    Args:
        key: uint64[n] or scalar.
        counter: int64[n], may be negative.
    """
    z = key + counter.astype(np.uint64) * _GOLDEN
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    mixed: UInt64s = z ^ (z >> _S31)
    return mixed


def uniform(key: UInt64s, counter: Int64s) -> Float64s:
    """float64[n] in [0, 1)."""
    return (mix(key, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(key: UInt64s, counter: Int64s) -> Float64s:
    """float64[n], standard normal (Box & Muller 1958), cut at ±`NORMAL_BOUND`."""
    z = mix(key, counter)
    radius = np.sqrt(-2.0 * np.log(((z >> _S32).astype(np.float64) + 1.0) * 2.0**-32))
    angle = (z & _LOW).astype(np.float64) * (2.0 * np.pi * 2.0**-32)
    drawn: Float64s = np.clip(radius * np.cos(angle), -NORMAL_BOUND, NORMAL_BOUND)
    return drawn


def smooth(key: UInt64s, ts_us: Int64s, period_s: float) -> Float64s:
    """float64[n]: a slow wander within ±`NORMAL_BOUND`, a new normal draw every `period_s` and a soft step between."""
    period_us = round(period_s * 1e6)
    cell = ts_us // period_us
    x = (ts_us - cell * period_us) / period_us
    before, after = normal(key, cell), normal(key, cell + 1)
    wander: Float64s = before + (after - before) * x * x * (3.0 - 2.0 * x)
    return wander


def seconds(us: Int64s) -> Float64s:
    """float64[n]: microseconds as seconds."""
    return us.astype(np.float64) * 1e-6
