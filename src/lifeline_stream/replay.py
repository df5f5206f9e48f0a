"""Recorded traces through the same engine at full speed: alarms as JSON Lines, grades as Parquet."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lifeline_stream.city.registry import load_registry
from lifeline_stream.core.catalog import Catalog, Channel
from lifeline_stream.core.detection import Detection
from lifeline_stream.core.model import Bools, ConditionEvent, EventKind, Float32s, Float64s, Int64s, ReadingBatch
from lifeline_stream.core.normalize import flagged
from lifeline_stream.core.packs import Pack, Sensor
from lifeline_stream.core.plan import compile_plan
from lifeline_stream.core.units import UnitError
from lifeline_stream.errors import ConfigError, Problem
from lifeline_stream.sources.replay import Trace, read_trace

WORST = 4
"""Highest severity: a channel's score is its worst open grade as a share of it."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Assignment(NamedTuple):
    """`GLOB=DOMAIN.SENSOR_TYPE[@UNIT]`: columns that match are channels of a sensor type."""

    glob: str
    sensor: str
    unit: str


class Replayed(NamedTuple):
    """What a replay did.

    Attributes:
        n_repeated: readings at a time that their channel had already; the first one stays.
        left_out: column that holds no numbers → what it holds.
    """

    n_readings: int
    n_channels: int
    n_unwatched: int
    n_implausible: int
    n_repeated: int
    n_events: int
    left_out: dict[str, str]


def parse_assignment(text: str) -> Assignment:
    """Read `P_*=water.pressure@mH2O`.

    Raises:
        ConfigError: it is written otherwise.

    >>> parse_assignment("P_*=water.pressure@mH2O")
    Assignment(glob='P_*', sensor='water.pressure', unit='mH2O')
    """
    glob, equals, target = text.rpartition("=")
    sensor, _, unit = target.partition("@")
    if not (equals and glob and "." in sensor):
        raise ConfigError([Problem("--as", "", text, "write GLOB=DOMAIN.SENSOR_TYPE or GLOB=DOMAIN.SENSOR_TYPE@UNIT")])
    return Assignment(glob, sensor, unit)


class Cast(NamedTuple):
    """A trace's columns as channels: a catalog indexed like the trace, and what turns values canonical.

    Attributes:
        scale, offset: float64[n], value × scale + offset is canonical.
        low, high: float64[n], plausible range.
    """

    catalog: Catalog
    scale: Float64s
    offset: Float64s
    low: Float64s
    high: Float64s


def cast_channels(trace: Trace, assignments: Sequence[Assignment], city: Catalog | None, packs: Sequence[Pack]) -> Cast:
    """Give every column its sensor type: by the first assignment that matches, else by the registry.

    The expected interval of a column is the registry's, else the trace's own, else the sensor type's.

    Raises:
        ConfigError: an assignment matches nothing or names no sensor type, a unit does not fit, no column has a type.
    """
    sensors = {f"{p.domain.id}.{s.id}": s for p in packs for s in p.sensor}
    known = {channel.id: channel for channel in city.channels} if city else {}
    _check(assignments, trace, sensors)
    channels: list[Channel] = []
    columns = np.tile([[1.0], [0.0], [-np.inf], [np.inf]], max(1, len(trace.channels)))
    problems: list[Problem] = []
    for ix, name in enumerate(trace.channels):
        match = next((a for a in assignments if fnmatchcase(name, a.glob)), None)
        sensor_name = match.sensor if match else known[name].sensor if name in known else ""
        domain = sensor_name.partition(".")[0]
        base = known.get(name) or Channel(name, ix, name, "", name, "", domain, sensor_name, "", "", 1.0)
        sensor = sensors.get(sensor_name)
        own_s = base.every_s if name in known else trace.every_s[ix]
        every_s = own_s or (sensor.every_s if sensor else 1.0)
        channels.append(replace(base, ix=ix, domain=domain, sensor=sensor_name, every_s=every_s))
        if sensor:
            unit = (match.unit if match else base.unit) or trace.units.get(name, "")
            try:
                factor = sensor.conversion(unit)
            except UnitError as error:
                problems.append(Problem("--as", name, sensor_name, f"{error}; say the unit: …={sensor_name}@UNIT"))
                continue
            columns[:, ix] = (*factor, *sensor.plausible)
    if not any(channel.sensor for channel in channels):
        text = f"no column has a sensor type; give it by --as or --registry. There are {', '.join(trace.channels)}"
        problems.append(Problem("--as", "", "", text))
    if problems:
        raise ConfigError(problems)
    return Cast(Catalog(tuple(channels), assets=city.assets if city else ()), *columns)


def _check(assignments: Sequence[Assignment], trace: Trace, sensors: dict[str, Sensor]) -> None:
    problems = []
    for a in assignments:
        if a.sensor not in sensors:
            domain = a.sensor.partition(".")[0]
            near = ", ".join(s for s in sensors if s.startswith(domain + ".")) or ", ".join(sorted(sensors))
            problems.append(Problem("--as", a.glob, a.sensor, f"no pack declares it; there are {near}"))
        if not any(fnmatchcase(name, a.glob) for name in trace.channels):
            there = ", ".join(trace.channels)
            no_numbers = "".join(f"; {name}: {why}" for name, why in trace.left_out.items())
            problems.append(Problem("--as", a.glob, "", f"matches no column of numbers; there are {there}{no_numbers}"))
    if problems:
        raise ConfigError(problems)


class Replay:
    """One trace through a detection of its own, in event time."""

    def __init__(self, cast: Cast, packs: Sequence[Pack]) -> None:
        """Compile the packs over the trace's channels."""
        self._cast = cast
        self.plan = compile_plan(cast.catalog, packs, event_time=True)
        self._detection = Detection(self.plan, "event")
        self._classes = {d.id: d.class_ for p in packs for d in p.detector}
        self._now_us = 0
        self.n_readings = self.n_implausible = self.n_repeated = 0

    def feed(self, raw: ReadingBatch) -> tuple[ReadingBatch, list[ConditionEvent]]:
        """One chunk of the trace in time order: its canonical readings, and the events."""
        c, ix = self._cast, raw.channel_ix
        value = raw.value * c.scale[ix] + c.offset[ix]
        quality = flagged(value, raw.quality, c.low[ix], c.high[ix])
        self.n_readings += len(raw)
        self.n_implausible += int((quality != raw.quality).sum())
        # a trace is its own clock, so no stamp lies in the future
        self._now_us = max(self._now_us, int(raw.ts_us.max(initial=0)))
        batch = ReadingBatch(ix, raw.ts_us, value, quality)
        live = self._detection.normalizer.arrive(batch, self._now_us)
        self.n_repeated += len(batch) - len(live)
        events, _ = self._detection.step(live, self._detection.now_us(0, live), -1)
        return batch, events

    def finish(self) -> list[ConditionEvent]:
        """Events that only the end of the trace brings."""
        return self._detection.finish(self._now_us)

    def line(self, event: ConditionEvent) -> dict[str, Any]:
        """One line of the output."""
        channel = self._cast.catalog.by_ix[event.channel_ix]
        return {
            "alarm_id": event.alarm_id,
            "event": event.kind.value,
            "at": rfc3339(event.at_us),
            "channel": channel.id,
            "asset": channel.asset,
            "domain": channel.domain,
            "detector": event.detector,
            "class": self._classes[event.detector].value,
            "severity": event.severity,
            "value": event.value,
            "limit": event.limit,
        }


def rfc3339(ts_us: int) -> str:
    """A time in UTC, with microseconds where it has them.

    >>> rfc3339(1_700_000_000_500_000)
    '2023-11-14T22:13:20.500000+00:00'
    """
    return (_EPOCH + timedelta(microseconds=ts_us)).isoformat()


def replay(  # noqa: PLR0913 - the options of the command
    paths: Sequence[Path],
    assignments: Sequence[Assignment],
    packs: Sequence[Pack],
    *,
    registry: Path | None = None,
    timezone: str = "UTC",
    rate_hz: float | None = None,
    out: Path | None = None,
    scores: Path | None = None,
) -> Replayed:
    """Run traces through the engine and write what it found, to stdout when no `out` is given.

    Events of detectors on trial are left out. Nothing is written before everything has been read.

    Raises:
        ConfigError: traces, assignments or registry are wrong, or a file can't be written.
    """
    trace = read_trace(paths, timezone=timezone, rate_hz=rate_hz)
    city = load_registry(registry, packs) if registry else None
    run = Replay(cast_channels(trace, assignments, city, packs), packs)
    try:
        grades = _Grades(trace.channels, scores) if scores else None
        with out.open("w", encoding="utf-8") if out else nullcontext(sys.stdout) as file:
            n_events = _write(file, run, _events(run, trace.batches, grades))
    except OSError as error:
        raise ConfigError([Problem("--out, --scores", "", "", f"can't be written: {error}")]) from None
    n_unwatched = sum(not channel.sensor for channel in run.plan.catalog.channels)
    counts = (run.n_readings, len(trace.channels), n_unwatched, run.n_implausible, run.n_repeated, n_events)
    return Replayed(*counts, trace.left_out)


def _write(file: TextIO, run: Replay, events: Iterable[ConditionEvent]) -> int:
    n_events = 0
    for event in events:
        if not event.trial:
            file.write(msgspec.json.encode(run.line(event)).decode() + "\n")
            n_events += 1
    return n_events


def _events(run: Replay, batches: Iterable[ReadingBatch], grades: _Grades | None) -> Iterator[ConditionEvent]:
    for raw in batches:
        batch, events = run.feed(raw)
        if grades:
            grades.write(batch, events)
        yield from events
    yield from run.finish()
    if grades:
        grades.close()


class _Grades:
    """Writes one score per reading: the worst open grade of its channel as a share of the highest, 0 to 1."""

    def __init__(self, channels: Sequence[str], path: Path) -> None:
        self._names = pa.array(list(channels))
        self._open: dict[int, dict[str, int]] = {}
        self._raised: set[int] = set()  # channels whose alarm was raised after their last reading so far
        fields = [("channel", pa.dictionary(pa.int32(), pa.string())), ("ts", pa.timestamp("us", tz="UTC"))]
        fields += [("value", pa.float64()), ("score", pa.float32()), ("alarm", pa.bool_())]
        self._schema = pa.schema(fields)
        self._file = pq.ParquetWriter(path, self._schema)

    def write(self, batch: ReadingBatch, events: Sequence[ConditionEvent]) -> None:
        score = np.zeros(len(batch), np.float32)
        alarm = np.zeros(len(batch), np.bool_)
        by_channel: dict[int, list[ConditionEvent]] = {ix: [] for ix in self._open}
        for event in events:
            if not event.trial:
                by_channel.setdefault(event.channel_ix, []).append(event)
        for ix, mine in by_channel.items():
            rows = np.flatnonzero(batch.channel_ix == ix)
            self._grade(batch.ts_us[rows], rows, ix, mine, score, alarm)
        names = pa.DictionaryArray.from_arrays(pa.array(batch.channel_ix), self._names)
        columns = [names, pa.array(batch.ts_us, self._schema.field("ts").type), batch.value, score, alarm]
        self._file.write_batch(pa.record_batch(columns, schema=self._schema))

    def _grade(  # noqa: PLR0913, PLR0917 - the rows of one channel, and where they go
        self, ts_us: Int64s, rows: Int64s, ix: int, events: Sequence[ConditionEvent], score: Float32s, alarm: Bools
    ) -> None:
        """Paint each stretch between two events with the worst grade that is open then."""
        opened = self._open.setdefault(ix, {})
        if ix in self._raised and len(rows):
            alarm[rows[0]] = True
            self._raised.discard(ix)
        at = 0
        for event in events:
            until = int(np.searchsorted(ts_us, event.at_us))
            score[rows[at:until]] = max(opened.values(), default=0) / WORST
            if event.kind is EventKind.CLEARED:
                opened.pop(event.alarm_id, None)
            else:
                opened[event.alarm_id] = event.severity
            if event.kind is EventKind.RAISED:
                if until < len(rows):
                    alarm[rows[until]] = True
                else:
                    self._raised.add(ix)
            at = until
        score[rows[at:]] = max(opened.values(), default=0) / WORST
        if not opened:
            del self._open[ix]

    def close(self) -> None:
        self._file.close()
