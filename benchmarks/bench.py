"""Readings/s of every step beside its plain-Python twin, in one run: a table on stderr, JSON on stdout.

The twins are those of the tests: one object and one step per reading. Steps run in turn with their twins, several
times; the medians count, and the ratio of a step to its twin says more than either, because machines differ.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import reference
import reference_wire
from end_to_end import measure
from lifeline_stream.city.registry import load_registry
from lifeline_stream.core.detection import Detection
from lifeline_stream.core.model import ReadingBatch
from lifeline_stream.core.plan import compile_plan
from lifeline_stream.declarations import load_packs
from lifeline_stream.formats.json_v1 import decode
from lifeline_stream.resources import find
from lifeline_stream.sources import names_of
from lifeline_stream.store import pgcopy
from load import messages, write_city

N_CHANNELS, N_MESSAGES, GROUP_ROWS = 2_000, 1_000, 20_000
ROUNDS = 5
LOAD = 30_000
"""Messages of 100 readings."""
START_MS = 1_764_000_000_000
RECEIVED_US = START_MS * 1000 + 3_600_000_000
Step = Callable[[], Any]


class Ours:
    """The steps of the pipeline, each from what the one before gave."""

    def __init__(self, city: Path, sent: list[tuple[str, bytes]]) -> None:
        """Compile the plan."""
        packs = load_packs(find("detectors"))
        self.catalog = load_registry(city, packs)
        self.plan = compile_plan(self.catalog, packs)
        self.sent = [(*names_of(topic), payload) for topic, payload in sent]

    def decode(self) -> None:
        """Message bytes → rows."""
        self.decoded = [decode(payload) for _, _, payload in self.sent]

    def normalise(self) -> None:
        """Rows → canonical readings."""
        self.detection = Detection(self.plan, "received")
        normalise = self.detection.normalizer.normalize
        found = [
            normalise(d, gateway, device, RECEIVED_US)
            for d, (gateway, device, _) in zip(self.decoded, self.sent, strict=True)
        ]
        self.batch = ReadingBatch.concat([f.batch for f in found])

    def detect(self) -> None:
        """Readings → condition events."""
        self.events = []
        for first in range(0, len(self.batch), GROUP_ROWS):
            group = self.batch.take(slice(first, first + GROUP_ROWS))
            self.events += self.detection.step(group, int(group.ts_us[-1]), -1)[0]

    def encode(self) -> None:
        """Readings → binary COPY."""
        order = pgcopy.by_channel_and_time(self.batch)
        lag_ms = np.zeros(len(self.batch), np.int32)
        self.copied = pgcopy.stream(pgcopy.encode_readings(self.batch.take(order), lag_ms, 1))


class Twin:
    """The same steps, one reading at a time."""

    def __init__(self, ours: Ours) -> None:
        """Take the same messages."""
        self.ours = ours

    def decode(self) -> None:
        """Message bytes → rows."""
        self.decoded = [reference_wire.decode(payload) for _, _, payload in self.ours.sent]

    def normalise(self) -> None:
        """Rows → canonical readings."""
        normalizer = reference_wire.ReferenceNormalizer(self.ours.catalog, self.ours.plan.packs)
        self.readings = [
            normalizer.take(named, gateway, device, RECEIVED_US)[0]
            for rows, (gateway, device, _) in zip(self.decoded, self.ours.sent, strict=True)
            for named in rows
        ]

    def detect(self) -> None:
        """Readings → condition events."""
        engine = reference.ReferenceEngine(self.ours.catalog, self.ours.plan.packs)
        self.events = engine.step(self.readings, RECEIVED_US)

    def encode(self) -> None:
        """Readings → binary COPY."""
        self.copied = reference_wire.encode(self.readings, 1)


STEPS = ("decode", "normalise", "detect", "encode")


def timed(step: Step) -> float:
    """How long a step takes, s."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def compare(rounds: int) -> dict[str, dict[str, float]]:
    """Every step beside its twin, in turn; medians over rounds."""
    with tempfile.TemporaryDirectory() as folder:
        city = write_city(Path(folder), N_CHANNELS).parent
        ours = Ours(city, list(messages(N_CHANNELS, N_MESSAGES, START_MS)))
    twin = Twin(ours)
    for step in STEPS:  # once uncounted: caches fill, kernels load
        getattr(ours, step)()
    took: dict[str, list[tuple[float, float]]] = {step: [] for step in STEPS}
    for turn in range(rounds):
        for step in STEPS:
            took[step].append((timed(getattr(ours, step)), timed(getattr(twin, step))))
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    same = len(ours.batch) == len(twin.readings) and ours.events == twin.events and len(ours.copied) == len(twin.copied)
    assert same, "a step and its twin disagree"
    return {step: figures(len(ours.batch), pairs) for step, pairs in took.items()}


def end_to_end(rounds: int) -> dict[str, float]:
    """From a publisher through Mosquitto into PostgreSQL, in turn with the twin, which gets a tenth of the load."""
    pairs = []
    for turn in range(rounds):
        ours, twin = (asyncio.run(measure(n, twin=twin)) for n, twin in ((LOAD, False), (LOAD // 10, True)))
        pairs.append((1 / ours, 1 / twin))
        print(f"end to end {turn + 1} of {rounds}: {ours:,.0f} and {twin:,.0f} readings/s", file=sys.stderr)
    return figures(1, pairs)


def figures(n: int, pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Medians of both, and of their ratio pair by pair."""
    return {
        "readings_per_s": round(n / statistics.median(ours_s for ours_s, _ in pairs)),
        "twin_per_s": round(n / statistics.median(twin_s for _, twin_s in pairs)),
        "ratio": round(statistics.median(twin_s / ours_s for ours_s, twin_s in pairs), 1),
    }


def show(found: dict[str, dict[str, float]]) -> None:
    """The table."""
    table = Table(title="readings/s")
    table.add_column("step")
    for name in ("lifeline-stream", "plain Python", "ratio"):
        table.add_column(name, justify="right")
    for step, row in found.items():
        table.add_row(step, f"{row['readings_per_s']:,}", f"{row['twin_per_s']:,}", f"{row['ratio']:.1f}")
    Console(stderr=True).print(table)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-end-to-end", action="store_true", help="leave broker and database out")
    arguments = parser.parse_args()
    found = compare(arguments.rounds)
    if not arguments.no_end_to_end:
        found["end to end"] = end_to_end(arguments.rounds)
    show(found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
