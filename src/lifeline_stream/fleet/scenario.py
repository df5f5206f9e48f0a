"""Which incidents and faults happen where and when, and the ground truth of them.

Declared ones come at set times; the others by chance, as a Poisson process per kind. Both are drawn from the seed, so
the same start gives the same truth.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from lifeline_stream.core.catalog import Catalog, Channel
from lifeline_stream.core.model import Float64s
from lifeline_stream.errors import ConfigError, Problem
from lifeline_stream.fleet.chance import key_of, uniform
from lifeline_stream.fleet.faults import FAULTS
from lifeline_stream.fleet.options import ANYWHERE, FleetOptions, Incident
from lifeline_stream.fleet.physics import HAZARDS, SIGNALS

DAY_US = 86_400_000_000
LARGER_BY_CHANCE = 0.6
"""An incident that happens by chance has a size of 1 to 1 + this."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One incident or fault, resolved to channels.

    Attributes:
        kind: of `HAZARDS` or `FAULTS`.
        asset: where it is.
        channels: ids of the channels that show it.
        onset_us: when it begins, µs since 1970 UTC.
        end_us: when nothing of it is left.
        size: as declared.
        rises_s: how long a hazard takes to reach its height.
        adds: float64[n_ix], what it adds to a channel at its height; NaN for a channel that it does not touch.
    """

    kind: str
    asset: str
    channels: tuple[str, ...]
    onset_us: int
    end_us: int
    size: float
    rises_s: float
    adds: Float64s

    @property
    def is_hazard(self) -> bool:
        """An incident of the city, not a fault of a device."""
        return self.kind in HAZARDS

    def truth(self, seed: int) -> dict[str, Any]:
        """One line of the ground truth."""
        return {
            "kind": self.kind,
            "class": "hazard" if self.is_hazard else "fault",
            "asset": self.asset,
            "channels": list(self.channels),
            "onset": _rfc3339(self.onset_us),
            "end": _rfc3339(self.end_us),
            "size": self.size,
            "seed": seed,
        }


class Place(NamedTuple):
    """Where something can happen: the channels that it touches, and what it adds to each at size 1."""

    asset: str
    adds: dict[int, float]


class Scenario:
    """All happenings from a start on, found as time goes on."""

    def __init__(self, catalog: Catalog, options: FleetOptions, start_us: int) -> None:
        """Resolve what is declared.

        Args:
            catalog: the city.
            options: what happens, and the seed.
            start_us: where `starts_s` counts from, µs since 1970 UTC.

        Raises:
            ConfigError: something is declared at a place where it can't happen.
        """
        self._seed = options.seed
        self._start_us = start_us
        self._places = _Places(catalog)
        self._current: list[Happening] = []
        self._by_chance: list[tuple[int, str, int, float]] = []
        self._begun: list[Happening] = []
        problems: list[Problem] = []
        for number, incident in enumerate(options.incident):
            self._declare(number, incident, problems)
        if problems:
            raise ConfigError(problems)
        for kind, per_day in options.per_day.items():
            if per_day > 0 and self._places.everywhere(kind):
                self._next_by_chance(kind, 0, per_day, start_us)

    def between(self, t0_us: int, t1_us: int) -> list[Happening]:
        """Happenings that touch [t0, t1) or end at t0, and those that touch a late batch of these.

        Ask for one stretch after the other.
        """
        while self._by_chance and self._by_chance[0][0] < t1_us:
            onset_us, kind, number, per_day = heapq.heappop(self._by_chance)
            places = self._places.everywhere(kind)
            draw = (kind, str(number))
            size = round(1.0 + LARGER_BY_CHANCE * self._uniform("size", *draw), 2) if kind in HAZARDS else 1.0
            place = self._free(draw, places, onset_us, onset_us + round(_usual_s(kind) * 1e6))
            if place is not None:
                self._settle(kind, place, onset_us, onset_us + round(_usual_s(kind) * 1e6), size)
            self._next_by_chance(kind, number + 1, per_day, onset_us)
        held_from_us = [h.onset_us for h in self._current if h.kind == "late_batch" and h.end_us >= t0_us]
        oldest_us = min([t0_us, *held_from_us])
        self._current = [h for h in self._current if h.end_us >= oldest_us]
        return [h for h in self._current if h.onset_us < t1_us]

    def begun(self, until_us: int) -> Iterator[dict[str, Any]]:
        """Ground truth of what has begun before a time, each once, in order of onset."""
        self._begun.sort(key=lambda h: h.onset_us)
        while self._begun and self._begun[0].onset_us < until_us:
            yield self._begun.pop(0).truth(self._seed)

    def _declare(self, number: int, incident: Incident, problems: list[Problem]) -> None:
        try:
            places = self._places.at(incident.kind, incident.at)
        except ValueError as error:
            problems.append(Problem("topology", incident.kind, f"fleet.incident[{number + 1}].at", str(error)))
            return
        onset_us = self._start_us + round(incident.starts_s * 1e6)
        end_us = onset_us + round((incident.lasts_s or _usual_s(incident.kind)) * 1e6)
        place = self._free(("declared", str(number)), places, onset_us, end_us) or places[0]
        self._settle(incident.kind, place, onset_us, end_us, incident.size)

    def _free(self, draw: tuple[str, str], places: Sequence[Place], onset_us: int, end_us: int) -> Place | None:
        """Draw a place where nothing else is going on then."""
        first = math.floor(self._uniform("place", *draw) * len(places))
        others = [h for h in self._current if h.onset_us < end_us and onset_us < h.end_us]
        busy = {name for happening in others for name in happening.channels}
        in_turn = (*places[first:], *places[:first])
        return next((p for p in in_turn if busy.isdisjoint(self._places.names_of(p))), None)

    def _settle(self, kind: str, place: Place, onset_us: int, end_us: int, size: float) -> None:
        channels = self._places.names_of(place)
        adds = np.full(self._places.n_ix, np.nan)
        adds[list(place.adds)] = np.array(list(place.adds.values())) * size
        rises_s = HAZARDS[kind].rises_s if kind in HAZARDS else 0.0
        happening = Happening(kind, place.asset, channels, onset_us, end_us, size, rises_s, adds)
        self._current.append(happening)
        self._begun.append(happening)

    def _next_by_chance(self, kind: str, number: int, per_day: float, after_us: int) -> None:
        gap_us = -math.log(1.0 - self._uniform("gap", kind, str(number))) * DAY_US / per_day
        heapq.heappush(self._by_chance, (after_us + round(gap_us), kind, number, per_day))

    def _uniform(self, *names: str) -> float:
        key = np.array([key_of(self._seed, "scenario", *names)], np.uint64)
        return float(uniform(key, np.zeros(1, np.int64))[0])


class _Places:
    """Where each kind can happen."""

    def __init__(self, catalog: Catalog) -> None:
        self.n_ix = catalog.n_ix
        self._channels = catalog.by_ix
        self._of: dict[str, list[Channel]] = {}
        simulated = [c for c in catalog.channels if c.sensor in SIGNALS]
        for channel in simulated:
            for name in {channel.asset, channel.device, channel.id}:
                self._of.setdefault(name, []).append(channel)
        self._assets = list(dict.fromkeys(c.asset for c in simulated))
        self._slow = [c for c in simulated if not is_waveform(c)]
        self._neighbours: dict[str, list[str]] = {}
        for edge in catalog.adjacency:
            self._neighbours.setdefault(edge.from_asset, []).append(edge.to_asset)
            self._neighbours.setdefault(edge.to_asset, []).append(edge.from_asset)
        self._everywhere: dict[str, list[Place]] = {}

    def names_of(self, place: Place) -> tuple[str, ...]:
        return tuple(self._channels[ix].id for ix in place.adds)

    def everywhere(self, kind: str) -> list[Place]:
        """All places of a kind."""
        if kind not in self._everywhere:
            if kind in HAZARDS:
                found = [self._hazard(kind, asset, self._of[asset], nearby=True) for asset in self._assets]
                self._everywhere[kind] = [place for place in found if place is not None]
            else:
                self._everywhere[kind] = self._fault(kind, self._slow)
        return self._everywhere[kind]

    def at(self, kind: str, name: str) -> list[Place]:
        """The places that a declaration leaves open.

        Raises:
            ValueError: there is none; the text says why.
        """
        if name == ANYWHERE:
            places = self.everywhere(kind)
            need = f"of {HAZARDS[kind].anchor}" if kind in HAZARDS else "that is no waveform"
            if not places:
                raise ValueError(f"the registry has no channel {need}")
            return places
        channels = self._of.get(name)
        if not channels:
            raise ValueError(f"no asset, device or channel {name!r} with a simulated sensor")
        if kind in FAULTS:
            places = self._fault(kind, [c for c in channels if not is_waveform(c)])
            if not places:
                raise ValueError(f"{name!r} sends waveforms or states only, which {kind} does not strike")
            return places
        asset = channels[0].asset
        place = self._hazard(kind, asset, channels, nearby=asset == name)
        if place is None:
            raise ValueError(f"{name!r} has no channel of {HAZARDS[kind].anchor}")
        return [place]

    def _hazard(self, kind: str, asset: str, channels: Sequence[Channel], *, nearby: bool) -> Place | None:
        hazard = HAZARDS[kind]
        if all(c.sensor != hazard.anchor for c in channels):
            return None
        adds = {c.ix: hazard.adds[c.sensor] for c in channels if c.sensor in hazard.adds}
        for neighbour in self._neighbours.get(asset, ()) if nearby else ():
            for c in self._of.get(neighbour, ()):
                if c.sensor in hazard.nearby:
                    adds.setdefault(c.ix, hazard.nearby[c.sensor])
        return Place(asset, adds)

    @staticmethod
    def _fault(kind: str, channels: Sequence[Channel]) -> list[Place]:
        if FAULTS[kind].strikes == "channel":
            can = [c for c in channels if kind != "drift" or SIGNALS[c.sensor].span > 0]
            return [Place(c.asset, {c.ix: SIGNALS[c.sensor].span}) for c in can]
        devices: dict[str, Place] = {}
        for c in channels:
            devices.setdefault(c.device, Place(c.asset, {})).adds[c.ix] = 0.0
        return list(devices.values())


WAVEFORM_BELOW_S = 0.5


def is_waveform(channel: Channel) -> bool:
    """Whether a channel's samples travel as blocks, one a second."""
    return channel.every_s < WAVEFORM_BELOW_S


def _usual_s(kind: str) -> float:
    return HAZARDS[kind].lasts_s if kind in HAZARDS else FAULTS[kind].lasts_s


def _rfc3339(ts_us: int) -> str:
    return datetime.fromtimestamp(ts_us / 1e6, UTC).isoformat(timespec="milliseconds")
