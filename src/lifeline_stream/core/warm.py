"""Compile every kernel once, so that a first start does not wait for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lifeline_stream.core.cases import one_detector
from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.detection import Detection
from lifeline_stream.core.model import Decoded
from lifeline_stream.core.normalize import flagged
from lifeline_stream.core.packs import Pack
from lifeline_stream.core.plan import compile_plan

_TEXTS = {"why": "warm-up", "source": "warm-up", "action": "none"}
_KINDS: dict[str, dict[str, Any]] = {
    "threshold": {"above": {"red": 1.0}},
    "rate": {"mean_s": 5, "over_s": 5, "above": {"red": 1.0}},
    "flat": {"after_s": 60, "severity": "blue"},
    "absence": {"severity": "blue"},
}


def compile_kernels() -> None:
    """Run each kernel on next to nothing; the compiled code stays in numba's cache."""
    for kind, fields in _KINDS.items():
        one_detector(kind, fields, every_s=60, values=[0.0, 2.0, None, 0.0])
    channels = Catalog.of_channels([("a", "x.a", 1.0), ("b", "x.b", 1.0)]).channels
    catalog = Catalog(tuple(replace(channel, device="device") for channel in channels))
    detection = Detection(compile_plan(catalog, [_gated()]), "received")
    now_us = 1_700_000_000_000_000
    rows = (np.zeros(1, np.int32), np.full(1, now_us), np.zeros(1), np.zeros(1, np.uint8))
    found = detection.normalizer.normalize(Decoded(["a"], [None], *rows), "", "device", now_us)
    flagged(rows[2], rows[3], rows[2], rows[2])
    detection.relive(found.batch, now_us, now_us)


def _gated() -> Pack:
    sensor = {"name": "预热", "quantity": "state", "unit": "1", "plausible": (-9, 9), "every_s": 1}
    states = {"on": {"above": 0.5}}
    needs = {"id": "x.high", "kind": "threshold", "sensor": "a", "above": {"red": 1.0}, "needs": {"b": "not on"}}
    return Pack.model_validate(
        {
            "domain": {"id": "x", "name": "预热", "name_en": "Warm-up"},
            "sensor": [sensor | {"id": "a"}, sensor | {"id": "b", "states": states}],
            "detector": [needs | _TEXTS],
        },
    )
