"""Small packs, cities and batches for tests of the core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lifeline_stream.core.catalog import Catalog, Channel
from lifeline_stream.core.model import ConditionEvent, Decoded, ReadingBatch
from lifeline_stream.core.packs import Pack
from reference import Reading

T0_US = 1_764_000_000_000_000
"""An hour in 2025, and a multiple of a minute."""
SECOND = 1_000_000

SENSOR = {"name": "示例", "quantity": "state", "unit": "1", "plausible": (-1e6, 1e6), "every_s": 60}
TEXTS = {"why": "a test", "source": "engineering judgement: a test", "action": "none"}


def make_pack(
    sensors: Iterable[dict[str, Any]], detectors: Iterable[dict[str, Any]] = (), cases: Iterable[dict[str, Any]] = ()
) -> Pack:
    """A pack of domain `x`, with what a test does not care about filled in."""
    return Pack.model_validate(
        {
            "domain": {"id": "x", "name": "示例", "name_en": "Example"},
            "sensor": [SENSOR | sensor for sensor in sensors],
            "detector": [TEXTS | detector for detector in detectors],
            "case": list(cases),
        },
    )


def make_catalog(*channels: tuple[str, str] | tuple[str, str, float], gateway: str = "GW") -> Catalog:
    """A city of (device, sensor type of domain `x`[, interval in s]); the asset is the first letter of the device."""
    rows = []
    for ix, (device, sensor, *every_s) in enumerate(channels):
        place = (device, gateway, device[0], "", "x")
        rows.append(Channel(f"{device}/{sensor}", ix, *place, f"x.{sensor}", "", "", every_s[0] if every_s else 60.0))
    return Catalog(tuple(rows))


def batch(readings: Sequence[Reading]) -> ReadingBatch:
    """Readings as columns."""
    return ReadingBatch(
        np.array([r.channel for r in readings], np.int32),
        np.array([r.ts_us for r in readings], np.int64),
        np.array([r.value for r in readings], np.float64),
        np.array([r.quality for r in readings], np.uint8),
    )


def message(
    rows: Sequence[tuple[str, int, float]], *, quality: int = 0, units: dict[str, str] | None = None, sent_us: int = 0
) -> Decoded:
    """A decoded message of (name, time in µs, value)."""
    names = list(dict.fromkeys(name for name, _, _ in rows))
    return Decoded(
        names=names,
        units=[(units or {}).get(name) for name in names],
        name_ix=np.array([names.index(name) for name, _, _ in rows], np.int32),
        ts_us=np.array([ts_us for _, ts_us, _ in rows], np.int64),
        value=np.array([value for _, _, value in rows], np.float64),
        quality=np.full(len(rows), quality, np.uint8),
        sent_us=sent_us,
    )


def told(events: Iterable[ConditionEvent]) -> list[str]:
    """Events as text: NaN equals NaN, and a failure is readable."""
    return [f"{e}" for e in events]


def short(events: Iterable[ConditionEvent], t0_us: int = T0_US) -> list[tuple[str, int, float]]:
    """Kind, severity and seconds from a start."""
    return [(e.kind.value, e.severity, (e.at_us - t0_us) / 1e6) for e in events]
