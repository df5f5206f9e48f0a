"""The simulated city: what its sensors show, and what its gateways send of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lifeline_stream.core.catalog import Catalog, Channel
from lifeline_stream.core.model import BACKFILL, Block, Bools, Float64s, Int32s, Int64s, ReadingBatch
from lifeline_stream.core.packs import Pack, Sensor
from lifeline_stream.errors import ConfigError, Problem
from lifeline_stream.fleet.chance import key_of, keys_of, normal, seconds, smooth, uniform
from lifeline_stream.fleet.faults import SKEW_S
from lifeline_stream.fleet.options import FleetOptions
from lifeline_stream.fleet.physics import SIGNALS
from lifeline_stream.fleet.scenario import Happening, Scenario, is_waveform
from lifeline_stream.fleet.signals import Moment, Signal, envelope
from lifeline_stream.fleet.weather import DAY_S, Climate, Weather

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
WANDER_S = 3600.0
WEATHER_GRID_US = 60 * SECOND_US
MILLISECOND_US = 1000
LOAD_CYCLE = 64
DECIMALS = 6
"""Of a value as it is sent, in the gateway's unit."""


class Tick(NamedTuple):
    """What the gateways send about one stretch of time, in the units that they use.

    Attributes:
        batch: readings in time order; those of a backfill carry `BACKFILL` and are older.
        again: readings of `batch` that are sent a second time.
        blocks: one second of each waveform.
    """

    batch: ReadingBatch
    again: ReadingBatch
    blocks: list[Block]


class Readings(Protocol):
    """Something that gateways can send."""

    def readings(self, t0_us: int, t1_us: int) -> Tick:
        """What is sent about [t0, t1); ask for one stretch after the other."""

    def truth(self, until_us: int) -> Iterator[dict[str, Any]]:
        """Ground truth of what has begun before a time, each once."""


class City:
    """What the sensors of a catalog show at given times. Needs no memory: any reading can be computed by itself.

    Attributes:
        unsimulated: sensor types of the catalog that no physics file knows; their channels stay silent.
    """

    def __init__(self, catalog: Catalog, packs: Sequence[Pack], options: FleetOptions) -> None:
        """Prepare arrays that are indexed like readings."""
        self.channels = [c for c in catalog.channels if c.sensor in SIGNALS]
        self.unsimulated = sorted({c.sensor for c in catalog.channels} - set(SIGNALS))
        self._offset_us = round(options.utc_offset_h * 3.6e9)
        self._climate = Climate(options.seed, options.utc_offset_h)
        n = catalog.n_ix
        ix = [c.ix for c in self.channels]
        self._types = sorted({c.sensor for c in self.channels})
        self._type_of = np.zeros(n, np.int16)
        self._type_of[ix] = [self._types.index(c.sensor) for c in self.channels]
        self._keys = {what: np.zeros(n, np.uint64) for what in ("noise", "slow")}
        names = [c.id for c in self.channels]
        for what, keys in self._keys.items():
            keys[ix] = keys_of(options.seed, what, names)
        self._trait, self._site = np.zeros(n), np.zeros(n)
        self._trait[ix] = _constant(options.seed, "trait", names)
        self._site[ix] = _constant(options.seed, "site", [c.asset for c in self.channels])
        # step, low, high of the instrument; scale, offset into the unit that the gateway uses
        self._shows = np.ones((5, n))
        sensors = {f"{p.domain.id}.{s.id}": s for p in packs for s in p.sensor}
        self._shows[:, ix] = np.array([_shows(c, SIGNALS[c.sensor], sensors) for c in self.channels]).reshape(-1, 5).T

    def shown(self, channel_ix: Int32s, ts_us: Int64s, happenings: Iterable[Happening] = ()) -> Float64s:
        """float64[n]: what is shown, in the gateway's unit.

        Args:
            channel_ix: int32[n], channels of the catalog that are simulated.
            ts_us: int64[n], true time, µs since 1970 UTC.
            happenings: what may be going on at these times.
        """
        happenings = list(happenings)
        seen_us = ts_us.copy()
        for h in happenings:
            if h.kind == "stuck":
                seen_us[_touched(h, channel_ix, ts_us)] = h.onset_us
        value = self._quiet(channel_ix, seen_us)
        for h in happenings:
            if h.is_hazard or h.kind == "drift":
                rows = np.flatnonzero(_touched(h, channel_ix, seen_us))
                elapsed_s = seconds(seen_us[rows] - h.onset_us)
                lasts_s = (h.end_us - h.onset_us) * 1e-6
                share = envelope(elapsed_s, lasts_s, h.rises_s) if h.is_hazard else elapsed_s / lasts_s
                value[rows] += h.adds[channel_ix[rows]] * share
        step, low, high, scale, offset = self._shows[:, channel_ix]
        steps = np.clip(np.rint(value / step) * step, low, high)
        shown: Float64s = np.round(steps * scale + offset, DECIMALS)
        return shown

    def _quiet(self, channel_ix: Int32s, ts_us: Int64s) -> Float64s:
        """float64[n]: the true value on a day when nothing happens, in the signal's unit."""
        kinds = self._type_of[channel_ix]
        order = np.argsort(kinds, kind="stable")
        moment = self._moment(channel_ix[order], ts_us[order])
        ends = np.searchsorted(kinds[order], np.arange(len(self._types) + 1))
        value = np.empty(len(ts_us))
        for number, name in enumerate(self._types):
            rows = slice(ends[number], ends[number + 1])
            if rows.start < rows.stop:
                value[order[rows]] = SIGNALS[name].quiet(moment.rows(rows))
        return value

    def _moment(self, channel_ix: Int32s, ts_us: Int64s) -> Moment:
        local_us = ts_us + self._offset_us
        day = local_us // DAY_US
        since_midnight_s = seconds(local_us - day * DAY_US)
        weather = self._weather(ts_us)
        return Moment(
            hour=since_midnight_s / 3600.0,
            weekend=(day + 3) % 7 >= 5,  # noqa: PLR2004 - 1970-01-01 was a Thursday; 5 and 6 are Saturday and Sunday
            seconds=since_midnight_s,
            days=day + since_midnight_s / DAY_S,
            air_c=weather.air_c,
            rain_mm_per_h=weather.rain_mm_per_h,
            wet_mm_per_h=weather.wet_mm_per_h,
            trait=self._trait[channel_ix],
            site=self._site[channel_ix],
            slow=smooth(self._keys["slow"][channel_ix], ts_us, WANDER_S),
            noise=normal(self._keys["noise"][channel_ix], ts_us),
        )

    def _weather(self, ts_us: Int64s) -> Weather:
        """The weather between its values at whole minutes."""
        if not len(ts_us):
            return self._climate.at(ts_us)
        first = int(ts_us.min()) // WEATHER_GRID_US
        last = int(ts_us.max()) // WEATHER_GRID_US + 1
        cell = ts_us // WEATHER_GRID_US
        x = (ts_us - cell * WEATHER_GRID_US) / WEATHER_GRID_US
        at = cell - first
        grid = self._climate.at(np.arange(first, last + 1) * WEATHER_GRID_US)
        fields = (grid.air_c, grid.rain_mm_per_h, grid.wet_mm_per_h)
        return Weather(*(f[at] + (f[at + 1] - f[at]) * x for f in fields))


class Fleet:
    """The city with its reporting intervals, its incidents and the faults of its devices."""

    def __init__(self, catalog: Catalog, packs: Sequence[Pack], options: FleetOptions, start_us: int) -> None:
        """Resolve the scenario.

        Args:
            catalog: the city.
            packs: sensor types, for their units.
            options: seed and scenario.
            start_us: where `starts_s` counts from, µs since 1970 UTC.

        Raises:
            ConfigError: something is declared at a place where it can't happen.
        """
        self._city = City(catalog, packs, options)
        self._scenario = Scenario(catalog, options, start_us)
        self._slow = Schedule([c for c in self._city.channels if not is_waveform(c)], options.seed)
        self._waves = [c for c in self._city.channels if is_waveform(c)]

    @property
    def unsimulated(self) -> list[str]:
        """Sensor types whose channels stay silent, because no physics file knows them."""
        return self._city.unsimulated

    def readings(self, t0_us: int, t1_us: int) -> Tick:
        """What is sent about [t0, t1); ask for one stretch after the other."""
        happenings = self._scenario.between(t0_us, t1_us)
        parts = [self._batch(*self._slow.due(t0_us, t1_us), happenings)]
        for h in happenings:
            if h.kind == "late_batch" and t0_us < h.end_us <= t1_us:
                held = self._held(h, happenings)
                parts.append(held)
        batch = ReadingBatch.concat(parts)
        again = [_touched(h, batch.channel_ix, batch.ts_us) for h in happenings if h.kind == "duplicate"]
        twice = batch.take(np.logical_or.reduce(again)) if again else ReadingBatch.empty()
        return Tick(batch, twice, self._blocks(t0_us, t1_us, happenings))

    def truth(self, until_us: int) -> Iterator[dict[str, Any]]:
        """Ground truth of what has begun before a time, each once."""
        return self._scenario.begun(until_us)

    def _batch(self, channel_ix: Int32s, ts_us: Int64s, happenings: Sequence[Happening]) -> ReadingBatch:
        lost = np.zeros(len(ts_us), np.bool_)
        stamped_us = ts_us.copy()
        for h in happenings:
            if h.kind in {"drop_out", "late_batch"}:
                lost |= _touched(h, channel_ix, ts_us)
            elif h.kind == "clock_skew":
                stamped_us[_touched(h, channel_ix, ts_us)] += round(h.size * SKEW_S * 1e6)
        value = self._city.shown(channel_ix, ts_us, happenings)
        return ReadingBatch(channel_ix, stamped_us, value, np.zeros(len(ts_us), np.uint8)).take(~lost)

    def _held(self, late: Happening, happenings: Sequence[Happening]) -> ReadingBatch:
        """What was held back since the onset of a late batch."""
        channel_ix, ts_us = self._slow.due(late.onset_us, late.end_us)
        mine = ~np.isnan(late.adds[channel_ix])
        others = [h for h in happenings if h is not late]
        held = self._batch(channel_ix[mine], ts_us[mine], others)
        return ReadingBatch(held.channel_ix, held.ts_us, held.value, held.quality | np.uint8(BACKFILL))

    def _blocks(self, t0_us: int, t1_us: int, happenings: Sequence[Happening]) -> list[Block]:
        """The whole seconds that ended in (t0, t1], of every waveform."""
        heads = [
            (channel, second * SECOND_US, round(1.0 / channel.every_s))
            for second in range(t0_us // SECOND_US, t1_us // SECOND_US)
            for channel in self._waves
        ]
        if not heads:
            return []
        ts_us = np.concatenate([start + np.arange(n) * SECOND_US // n for _, start, n in heads])
        ix = np.repeat(np.array([c.ix for c, _, _ in heads], np.int32), [n for _, _, n in heads])
        samples = np.split(self._city.shown(ix, ts_us, happenings), np.cumsum([n for _, _, n in heads])[:-1])
        return [
            Block(channel.ix, start, float(n), samples[i].astype(np.float32))
            for i, (channel, start, n) in enumerate(heads)
        ]


class Load:
    """As many readings a second as are asked for, every channel equally often; nothing happens in it."""

    def __init__(self, catalog: Catalog, packs: Sequence[Pack], options: FleetOptions, start_us: int) -> None:
        """Draw a cycle of quiet values for every channel, so that a reading costs a look-up.

        Raises:
            ConfigError: a channel would have more than one reading a millisecond, which is as fine as stamps are.
        """
        city = City(catalog, packs, options)
        channels = [c for c in city.channels if not is_waveform(c)]
        self._every_us = round(len(channels) * 1e6 / options.readings_per_s)
        if self._every_us < MILLISECOND_US:
            text = f"{len(channels)} channels give at most {len(channels)},000 readings a second"
            raise ConfigError([Problem("topology", "", "fleet.readings_per_s", text)])
        self._schedule = Schedule(channels, options.seed, self._every_us)
        ix = np.repeat(np.array([c.ix for c in channels], np.int32), LOAD_CYCLE)
        ts_us = start_us + np.tile(np.arange(LOAD_CYCLE) * SECOND_US, len(channels))
        self._cycle = np.zeros((catalog.n_ix, LOAD_CYCLE))
        self._cycle[ix[::LOAD_CYCLE]] = city.shown(ix, ts_us).reshape(-1, LOAD_CYCLE)

    def readings(self, t0_us: int, t1_us: int) -> Tick:
        """What is sent about [t0, t1)."""
        ix, ts_us = self._schedule.due(t0_us, t1_us)
        value = self._cycle[ix, ts_us // self._every_us % LOAD_CYCLE]
        stamped_us = ts_us // MILLISECOND_US * MILLISECOND_US
        return Tick(ReadingBatch(ix, stamped_us, value, np.zeros(len(ix), np.uint8)), ReadingBatch.empty(), [])

    def truth(self, until_us: int) -> Iterator[dict[str, Any]]:  # noqa: ARG002 - as `Readings` has it
        """Nothing."""
        return iter(())


class Schedule:
    """When channels report: every `every_s`, all channels of a device at once, to the millisecond."""

    def __init__(self, channels: Sequence[Channel], seed: int, every_us: int | None = None) -> None:
        """Give each device its phase.

        Args:
            channels: who reports.
            seed: of the phases.
            every_us: an interval for all; None: each channel's own.
        """
        self._ix = np.array([c.ix for c in channels], np.int32)
        own_us = [max(1000, round(c.every_s * 1e3) * 1000) for c in channels]
        self._every_us = np.array([every_us or own for own in own_us], np.int64)
        phase = np.array([key_of(seed, "phase", c.device) >> 1 for c in channels], np.int64)
        self._phase_us = phase % self._every_us // 1000 * 1000

    def due(self, t0_us: int, t1_us: int) -> tuple[Int32s, Int64s]:
        """Channel and time of every report in [t0, t1), in order of time."""
        k0 = -((self._phase_us - t0_us) // self._every_us)
        n = -((self._phase_us - t1_us) // self._every_us) - k0
        row = np.repeat(np.arange(len(n)), n)
        k = np.arange(len(row)) - np.repeat(np.cumsum(n) - n, n) + k0[row]
        ts_us = self._phase_us[row] + k * self._every_us[row]
        order = np.argsort(ts_us, kind="stable")
        return self._ix[row[order]], ts_us[order]


def _touched(h: Happening, channel_ix: Int32s, ts_us: Int64s) -> Bools:
    """bool[n]: the happening is on this channel at this time."""
    return (ts_us >= h.onset_us) & (ts_us < h.end_us) & ~np.isnan(h.adds[channel_ix])


def _constant(seed: int, purpose: str, names: list[str]) -> Float64s:
    """float64[n] in [-1, 1], one per name."""
    return 2.0 * uniform(keys_of(seed, purpose, names), np.zeros(len(names), np.int64)) - 1.0


def _shows(channel: Channel, signal: Signal, sensors: dict[str, Sensor]) -> tuple[float, float, float, float, float]:
    scale, offset = sensors[channel.sensor].conversion(signal.unit, channel.unit)
    return signal.step, signal.low, signal.high, scale, offset
