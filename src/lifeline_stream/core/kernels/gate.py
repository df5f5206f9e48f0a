"""Companion gate: holds a reading until what its detectors need to know about other sensors is known.

A need is read as of the reading's own event time. So a reading of a channel with needs waits until every companion has
reached that time, or `hold_us` of the logged clock has passed; a companion that never comes is unknown and stops
nothing. A reading past the red limit never waits, and takes those that wait before it on its channel along.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.kernels import GOOD, MANUAL, NEVER, OVER_RANGE, SUSPECT, njit

WAITING = 16
"""Readings that a channel may hold; the oldest leaves when one more comes."""
TURNS = 8
"""Changes of a companion's state that are remembered."""


DEPENDENT = np.dtype(
    [
        ("channel", np.int32),
        ("first_need", np.int32),
        ("last_need", np.int32),
        ("hold_us", np.int64),
        ("red_above", np.float64),
        ("red_below", np.float64),
    ],
    align=True,
)
"""A channel with needs: its rows of NEED, how long it waits, and the limits past which it does not (NaN: none)."""

NEED = np.dtype(
    [
        ("companion", np.int32),
        ("dependent", np.int32),
        ("bit", np.uint8),
        ("forbidden", np.uint8),
        ("above", np.float64),
        ("below", np.float64),
    ],
    align=True,
)
"""The state of a companion, and whether it must not hold (`forbidden` 1) or must (0)."""

HELD = np.dtype(
    [
        ("n", np.int32),
        ("ts_us", np.int64, (WAITING,)),
        ("since_us", np.int64, (WAITING,)),
        ("value", np.float64, (WAITING,)),
        ("quality", np.uint8, (WAITING,)),
    ],
    align=True,
)
"""Readings of one dependent channel that wait, oldest first, and since when by the logged clock."""

TRACK = np.dtype(
    [
        ("newest_us", np.int64),
        ("n", np.int32),
        ("at_us", np.int64, (TURNS,)),
        ("unmet", np.uint8, (TURNS,)),
    ],
    align=True,
)
"""How far a companion has come, and the last changes of the need's verdict, oldest first."""

ROW = np.dtype(
    [
        ("channel", np.int32),
        ("ts_us", np.int64),
        ("value", np.float64),
        ("quality", np.uint8),
        ("unmet", np.uint8),
    ],
    align=True,
)
"""A reading on its way to the detectors, with the mask of needs that don't hold."""


@njit
def worthy(quality):
    """Whether a reading says anything about what is measured."""
    return quality in (GOOD, SUSPECT, OVER_RANGE, MANUAL)


@njit
def verdict(need, value):
    """1 when the companion's value leaves the need unmet."""
    holds = (value > need.above) or (value < need.below)
    return np.uint8(1) if holds == (need.forbidden == 1) else np.uint8(0)


@njit
def follow(track, need, ts_us, value, quality):
    """Take one reading of a companion; one without worth moves the companion on but not its verdict."""
    if ts_us <= track.newest_us:
        return
    track.newest_us = ts_us
    if not worthy(quality):
        return
    unmet = verdict(need, value)
    if track.n and track.unmet[track.n - 1] == unmet:
        return
    if track.n == TURNS:
        for k in range(TURNS - 1):
            track.at_us[k], track.unmet[k] = track.at_us[k + 1], track.unmet[k + 1]
        track.n -= 1
    track.at_us[track.n], track.unmet[track.n] = ts_us, unmet
    track.n += 1


@njit
def as_of(track, ts_us):
    """The verdict in force at a time; unknown counts as met."""
    for k in range(track.n - 1, -1, -1):
        if track.at_us[k] <= ts_us:
            return track.unmet[k]
    return np.uint8(0)


@njit
def put(rows, n, channel, ts_us, value, quality, unmet):
    """Write one row of output."""
    rows[n].channel = channel
    rows[n].ts_us = ts_us
    rows[n].value = value
    rows[n].quality = quality
    rows[n].unmet = unmet
    return n + 1


@njit
def release(d, held, needs, tracks, count, rows, n):
    """Let the `count` oldest readings of a dependent go, with what is known of its companions."""
    for k in range(count):
        unmet = np.uint8(0)
        for j in range(d.first_need, d.last_need):
            if as_of(tracks[j], held.ts_us[k]):
                unmet |= needs[j].bit
        n = put(rows, n, d.channel, held.ts_us[k], held.value[k], held.quality[k], unmet)
    for k in range(held.n - count):
        held.ts_us[k], held.since_us[k] = held.ts_us[k + count], held.since_us[k + count]
        held.value[k], held.quality[k] = held.value[k + count], held.quality[k + count]
    held.n -= count
    return n


@njit
def known(d, tracks, held):
    """How many of the readings that wait have every companion at or past their time."""
    reached = np.int64(2**62)
    for j in range(d.first_need, d.last_need):
        reached = min(reached, tracks[j].newest_us)
    count = 0
    while count < held.n and held.ts_us[count] <= reached:
        count += 1
    return count


@njit
def past_red(d, value, quality):
    """Whether a reading may not wait."""
    return worthy(quality) and ((value >= d.red_above) or (value <= d.red_below))


@njit
def step(ch, ts, value, quality, now_us, dependent_of, dependents, need_start, need_rows, needs, helds, tracks, rows):
    """Pass readings on to `rows`, holding those that wait; return how many rows there are.

    Companions are followed first, so the order of channels within a batch changes nothing; the store does not keep it.

    ch, ts, value, quality: the batch. dependent_of: int32[n_ix], row of `dependents` or -1. need_start, need_rows: the
    needs that a channel is companion of (CSR over channels). rows: ROW[n + all that may be held].
    """
    n = 0
    for r in range(len(ch)):
        for k in range(need_start[ch[r]], need_start[ch[r] + 1]):
            j = need_rows[k]
            follow(tracks[j], needs[j], ts[r], value[r], quality[r])
    for r in range(len(ch)):
        c = ch[r]
        for k in range(need_start[c], need_start[c + 1]):
            i = needs[need_rows[k]].dependent
            n = release(dependents[i], helds[i], needs, tracks, known(dependents[i], tracks, helds[i]), rows, n)
        i = dependent_of[c]
        if i < 0:
            n = put(rows, n, c, ts[r], value[r], quality[r], np.uint8(0))
            continue
        d, held = dependents[i], helds[i]
        n = release(d, held, needs, tracks, known(d, tracks, held), rows, n)
        if held.n == WAITING:
            n = release(d, held, needs, tracks, 1, rows, n)
        held.ts_us[held.n], held.since_us[held.n] = ts[r], now_us
        held.value[held.n], held.quality[held.n] = value[r], quality[r]
        held.n += 1
        count = held.n if past_red(d, value[r], quality[r]) else known(d, tracks, held)
        n = release(d, held, needs, tracks, count, rows, n)
    return n


@njit
def advance(now_us, dependents, needs, helds, tracks, rows):
    """Let go what has waited long enough by the clock; return how many rows there are."""
    n = 0
    for i in range(len(dependents)):
        d, held = dependents[i], helds[i]
        count = 0
        while count < held.n and held.since_us[count] + d.hold_us <= now_us:
            count += 1
        n = release(d, held, needs, tracks, count, rows, n)
    return n


def fresh(n_dependents: int, n_needs: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """State before the first reading: nothing held, nothing known."""
    tracks = np.zeros(n_needs, TRACK)
    tracks["newest_us"] = NEVER
    return np.zeros(n_dependents, HELD), tracks
