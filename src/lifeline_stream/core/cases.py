"""Inline tests of a pack: a signal drawn with segments, and the events it must give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np

from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.engine import Engine
from lifeline_stream.core.model import ConditionEvent, EventKind, Float64s, Quality, ReadingBatch
from lifeline_stream.core.normalize import flagged
from lifeline_stream.core.packs import Case, Expected, Pack, Segment, severity_of
from lifeline_stream.core.plan import compile_plan

EPOCH_US = 1_700_000_000_000_000 // 86_400_000_000 * 86_400_000_000
"""Start of every case: a midnight UTC."""


def draw(segments: Sequence[Segment], every_s: float) -> Float64s:
    """Values of a signal at every step, NaN where it is silent; shape [n], the sensor's unit.

    A ramp starts from the last value before it.

    >>> draw((Segment(for_s=120, value=1.0), Segment(for_s=120, to=3.0), Segment(for_s=60, silent=True)), 60)
    array([ 1.,  1.,  2.,  3., nan])
    """
    pieces: list[Float64s] = []
    last = 0.0
    for segment in segments:
        n = max(1, round(segment.for_s / every_s))
        if segment.silent:
            pieces.append(np.full(n, np.nan))
            continue
        if segment.value is not None:
            pieces.append(np.full(n, segment.value))
        else:
            pieces.append(np.linspace(last, segment.to or 0.0, n + 1)[1:])
        last = float(pieces[-1][-1])
    return np.concatenate(pieces)


def run_case(pack: Pack, case: Case) -> list[str]:
    """What a case gets other than it expects; empty when it holds."""
    detector = next(d for d in pack.detector if d.id == case.detector)
    names = [s.id for s in pack.sensors_of(detector)]
    watched = case.sensor or names[0]
    if watched not in names:
        return [f"sensor {watched!r} is not watched by {case.detector}"]
    unknown = set(case.companions) - {s.id for s in pack.sensor}
    if unknown:
        return [f"no sensor {', '.join(sorted(unknown))} in this pack"]
    only = pack.model_copy(update={"detector": (detector,)})
    signals = {watched: draw(case.signal, case.every_s)}
    signals |= {name: draw(segments, case.every_s) for name, segments in case.companions.items()}
    events = simulate(only, signals, case.every_s)
    return _compare(events, case.expect)


def simulate(pack: Pack, signals: dict[str, Float64s], every_s: float) -> list[ConditionEvent]:
    """Events of one device whose sensors report the signals together, every `every_s`, from EPOCH_US on."""
    sensors = [f"{pack.domain.id}.{name}" for name in signals]
    catalog = Catalog.of_channels([(name, name, every_s) for name in sensors])
    catalog = Catalog(tuple(replace(channel, device="device") for channel in catalog.channels))
    engine = Engine(compile_plan(catalog, [pack], event_time=True), event_time=True)
    n = max(map(len, signals.values()))
    grid = np.full((n, len(signals)), np.nan)
    for column, values in enumerate(signals.values()):
        grid[: len(values), column] = values
    rows, columns = np.nonzero(~np.isnan(grid))
    ts_us = EPOCH_US + np.rint(np.arange(n) * (every_s * 1e6)).astype(np.int64)
    values = grid[rows, columns]
    quality = _quality(pack, signals, columns, values)
    batch = ReadingBatch(columns.astype(np.int32), ts_us[rows], values, quality)
    end_us = int(ts_us[-1])
    return engine.step(batch, end_us) + engine.finish(end_us)


def _quality(pack: Pack, signals: dict[str, Float64s], columns: Any, values: Float64s) -> Any:  # noqa: ANN401
    sensors = {s.id: s for s in pack.sensor}
    low, high = np.array([sensors[name].plausible for name in signals])[columns].T
    return flagged(values, np.full(len(values), Quality.GOOD, np.uint8), low, high)


def _compare(events: Sequence[ConditionEvent], expected: Sequence[Expected]) -> list[str]:
    problems = []
    for place, (event, wanted) in enumerate(zip_longest(events, expected), 1):
        if event is None:
            problems.append(f"event {place}: expected {_name(wanted)}, nothing came")
        elif wanted is None:
            problems.append(f"event {place}: nothing expected, found {_found(event)}")
        elif not _fits(event, wanted):
            problems.append(f"event {place}: expected {_name(wanted)}, found {_found(event)}")
    return problems


def _fits(event: ConditionEvent, wanted: Expected) -> bool:
    at_s = (event.at_us - EPOCH_US) / 1e6
    if wanted.within_s and not wanted.within_s[0] <= at_s <= wanted.within_s[1]:
        return False
    if wanted.severity is None:
        return event.kind is EventKind.CLEARED
    return event.kind is not EventKind.CLEARED and event.severity == severity_of(wanted.severity)


def _name(wanted: Expected) -> str:
    name = wanted.severity or "cleared"
    return f"{name} between {wanted.within_s[0]:g} and {wanted.within_s[1]:g} s" if wanted.within_s else name


def _found(event: ConditionEvent) -> str:
    return f"{event.kind} severity {event.severity} at {(event.at_us - EPOCH_US) / 1e6:g} s (value {event.value:g})"


def one_detector(kind: str, fields: dict[str, Any], *, every_s: float, values: Sequence[float | None]) -> list[str]:
    """Events of one detector of a kind over a short signal, for examples: 'raised 2 at 60 s'."""
    sensor = {"id": "x", "name": "示例", "quantity": "state", "unit": "1", "plausible": (-1e9, 1e9), "every_s": every_s}
    texts = {"id": "demo.x", "sensor": "x", "kind": kind, "why": "example", "source": "example", "action": "none"}
    pack = Pack.model_validate(
        {
            "domain": {"id": "demo", "name": "示例", "name_en": "Example"},
            "sensor": [sensor],
            "detector": [texts | fields],
        },
    )
    signal = np.array([np.nan if value is None else value for value in values])
    return [
        f"{e.kind} {e.severity} at {(e.at_us - EPOCH_US) / 1e6:g} s" for e in simulate(pack, {"x": signal}, every_s)
    ]
