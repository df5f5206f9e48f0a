"""What a simulated sensor says on a quiet day, and how an incident changes it: the words that the physics files use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from lifeline_stream.core.model import Bools, Float64s


@dataclass(frozen=True, slots=True)
class Moment:
    """What a quiet signal depends on; one row per reading.

    Attributes:
        hour: float64[n], local hour of the day, 0 to 24.
        weekend: bool[n].
        seconds: float64[n], s since the local midnight, for waveforms.
        days: float64[n], local days since 1970, for counters.
        air_c: float64[n], the city's air temperature, °C.
        rain_mm_per_h: float64[n], the city's rain.
        wet_mm_per_h: float64[n], the rain as the sewers feel it.
        trait: float64[n] in [-1, 1], what is particular to the channel.
        site: float64[n] in [-1, 1], what is particular to the asset; all its channels share it.
        slow: float64[n], a wander within ±4 that takes about an hour.
        noise: float64[n], a standard normal within ±4, new for each reading.
    """

    hour: Float64s
    weekend: Bools
    seconds: Float64s
    days: Float64s
    air_c: Float64s
    rain_mm_per_h: Float64s
    wet_mm_per_h: Float64s
    trait: Float64s
    site: Float64s
    slow: Float64s
    noise: Float64s

    def rows(self, rows: slice) -> Moment:
        """Some of the readings."""
        return Moment(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Signal:
    """A sensor type as the simulator sees it.

    Attributes:
        unit: of everything below, a canonical spelling.
        step: resolution of the instrument.
        span: how far a quiet reading usually strays; a drift of size 1 adds one of it.
        quiet: the reading on a day when nothing happens.
        low: the instrument shows nothing below …
        high: … nor above.
    """

    unit: str
    step: float
    span: float
    quiet: Callable[[Moment], Float64s]
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True, slots=True)
class Hazard:
    """A kind of incident, as what it adds to the readings around it at size 1.

    Attributes:
        adds: `domain.sensor` → what it adds at its height, in the signal's unit; the first one is where it happens.
        nearby: the same for the assets that the registry says are adjacent.
        rises_s: how long it takes to reach its height.
        lasts_s: how long one usually lasts.
        name: Chinese name.
    """

    name: str
    adds: Mapping[str, float]
    nearby: Mapping[str, float] = field(default_factory=dict)
    rises_s: float = 6.0
    lasts_s: float = 120.0

    @property
    def anchor(self) -> str:
        """The sensor type that an asset must have for this to happen to it."""
        return next(iter(self.adds))


def envelope(ts_s: Float64s, lasts_s: float, rises_s: float) -> Float64s:
    """float64[n] in [0, 1]: how much of an incident is there, `ts_s` after its onset; nothing before and after.

    >>> envelope(np.array([-1.0, 0.0, 3.0, 50.0, 99.0, 100.0]), 100.0, 6.0).round(2).tolist()
    [0.0, 0.0, 0.5, 1.0, 0.17, 0.0]
    """
    rises_s = min(rises_s, lasts_s / 3)
    return np.clip(np.minimum(ts_s, lasts_s - ts_s) / rises_s, 0.0, 1.0)


def bump(hour: Float64s, at: float, width_h: float) -> Float64s:
    """float64[n] in [0, 1]: a daily peak around an hour, across midnight.

    >>> bump(np.array([7.0, 19.0, 31.0]), 7.0, 2.0).round(3).tolist()
    [1.0, 0.0, 1.0]
    """
    away = (hour - at + 12.0) % 24.0 - 12.0
    return np.exp(-0.5 * (away / width_h) ** 2)


def demand(moment: Moment) -> Float64s:
    """float64[n] around 1: how much of a service people use: little at night, most in the morning and evening."""
    morning = np.where(moment.weekend, 9.0, 7.5)
    peaks = 0.55 * bump(moment.hour - morning, 0.0, 1.7) + 0.6 * bump(moment.hour, 19.0, 2.2)
    return 0.55 + 0.35 * bump(moment.hour, 13.0, 4.5) + peaks


def traffic(moment: Moment) -> Float64s:
    """float64[n] in about [0.05, 1]: vehicles on the road."""
    rush = 0.55 * bump(moment.hour, 8.0, 1.2) + 0.6 * bump(moment.hour, 18.0, 1.5)
    working = np.where(moment.weekend, 0.55, 1.0)
    return 0.05 + working * (rush + 0.4 * bump(moment.hour, 13.0, 4.0))


SWITCH = Signal("1", 1.0, 0.0, lambda m: np.zeros(len(m.hour)), low=0.0, high=1.0)
"""A state that is 0 on a quiet day: dry, closed, no smoke. It can't drift."""
CELL = Signal("V", 0.01, 0.02, lambda m: 3.6 + 0.02 * m.trait + 0.004 * m.noise)
"""Voltage of a lithium cell."""
MAINS_BATTERY = Signal("V", 0.1, 0.2, lambda m: 12.8 + 0.2 * m.trait + 0.05 * m.noise)
"""Voltage of a station's buffer battery."""
RADIO = Signal("dBm", 1.0, 4.0, lambda m: -88.0 + 8.0 * m.trait + 1.5 * m.noise)
"""Reception of a device on NB-IoT."""
