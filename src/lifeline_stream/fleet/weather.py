"""One weather for the whole city: air temperature and rain, as functions of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lifeline_stream.core.model import Float64s, Int64s
from lifeline_stream.fleet.chance import UInt64s, key_of, seconds, smooth, uniform

DAY_S = 86_400
YEAR_S = 365.2425 * DAY_S

STORM_CELL_S = 8 * 3600
"""At most one storm begins in each such stretch of time."""
STORM_CHANCE = 0.3
STORM_LASTS_S = (1800.0, 4 * 3600.0)
STORM_PEAK_MM_PER_H = (1.0, 12.0)
"""Ordinary rain. A cloudburst is an incident, not weather."""
SEWER_LAG_S = 1200.0
SEWER_STRETCH = 1.8
"""The sewers feel a storm later and longer than it rains."""


@dataclass(frozen=True, slots=True)
class Weather:
    """Air and rain at given times.

    Attributes:
        air_c: float64[n], air temperature, °C.
        rain_mm_per_h: float64[n], rain intensity.
        wet_mm_per_h: float64[n], the same as the sewers feel it.
    """

    air_c: Float64s
    rain_mm_per_h: Float64s
    wet_mm_per_h: Float64s


class Climate:
    """A seeded climate: warm humid summers, cool winters, a storm every day or so."""

    def __init__(self, seed: int, utc_offset_h: float) -> None:
        """Derive the keys of temperature and storms."""
        self._offset_us = round(utc_offset_h * 3.6e9)
        self._air_key = np.uint64(key_of(seed, "air"))
        self._storm_keys: list[UInt64s] = [
            np.array(key_of(seed, "storm", what), np.uint64) for what in ("chance", "start", "length", "peak")
        ]

    def at(self, ts_us: Int64s) -> Weather:
        """The weather at times.

        Args:
            ts_us: int64[n], µs since 1970 UTC.
        """
        return Weather(self._air_c(ts_us), self._rain(ts_us, 0.0, 1.0), self._rain(ts_us, SEWER_LAG_S, SEWER_STRETCH))

    def _air_c(self, ts_us: Int64s) -> Float64s:
        local_s = seconds(ts_us + self._offset_us)
        year = np.cos(2 * np.pi * (local_s / YEAR_S - 200 / 365))
        day = np.cos(2 * np.pi * (local_s / DAY_S - 15 / 24))
        wander: Float64s = smooth(np.asarray(self._air_key), ts_us, DAY_S)
        air_c: Float64s = 15.5 + 11.0 * year + 4.0 * day + 0.8 * wander
        return air_c

    def _rain(self, ts_us: Int64s, lag_s: float, stretch: float) -> Float64s:
        """Sum over the storms that may still be felt: of this cell and of the one before."""
        cell_us = STORM_CELL_S * 1_000_000
        cell = ts_us // cell_us
        total = np.zeros(len(ts_us))
        for back in (0, 1):
            total += self._storm(cell - back, seconds(ts_us - (cell - back) * cell_us) - lag_s, stretch)
        return total

    def _storm(self, cell: Int64s, elapsed_s: Float64s, stretch: float) -> Float64s:
        chance, start, length, peak = (uniform(key, cell) for key in self._storm_keys)
        lasts_s = (STORM_LASTS_S[0] + (STORM_LASTS_S[1] - STORM_LASTS_S[0]) * length) * stretch
        peak_mm = STORM_PEAK_MM_PER_H[0] + (STORM_PEAK_MM_PER_H[1] - STORM_PEAK_MM_PER_H[0]) * peak**2
        x = (elapsed_s - start * (STORM_CELL_S - STORM_LASTS_S[1])) / lasts_s
        falls = (chance < STORM_CHANCE) & (x > 0.0) & (x < 1.0)
        return np.where(falls, peak_mm * np.sin(np.pi * np.clip(x, 0.0, 1.0)) ** 2, 0.0)
