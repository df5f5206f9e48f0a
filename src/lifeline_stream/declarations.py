"""Packs and topologies as files: read, checked, and every problem of every file at once."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from lifeline_stream.city.registry import read_registry
from lifeline_stream.core.cases import run_case
from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.packs import Model, Pack
from lifeline_stream.errors import ConfigError, Problem
from lifeline_stream.fleet.options import FleetOptions
from lifeline_stream.fleet.scenario import Scenario
from lifeline_stream.resources import find, named

M = TypeVar("M", bound=BaseModel)


class MqttSource(Model):
    """Readings from the broker of the configuration."""

    kind: Literal["mqtt"]
    topics: tuple[Annotated[str, Field(min_length=1)], ...] = ("lifeline/v1/+/+/up",)
    format: Literal["json.v1"] = "json.v1"


class Topology(Model):
    """How readings flow in one shape of deployment."""

    shard: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Name of the part of the city that one process at a time may write."""
    registry: str
    """Folder of the city's CSV files, relative to `config/`, or a path."""
    packs: str = "detectors"
    clock: Literal["received", "event"] = "received"
    source: MqttSource
    fleet: FleetOptions = FleetOptions()
    """The simulated city, where there is one."""

    def registry_path(self) -> Path:
        """Where the CSV files are."""
        return Path(self.registry) if Path(self.registry).is_dir() else find("config", self.registry)

    def packs_path(self) -> Path:
        """Where the packs are."""
        return Path(self.packs) if Path(self.packs).is_dir() else find(self.packs)


def read_toml(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """A TOML file as a dict, or why not."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), []
    except OSError as error:
        return {}, [Problem(str(path), "", "", f"can't be read: {error.strerror}")]
    except UnicodeDecodeError as error:
        return {}, [Problem(str(path), "", "", f"not UTF-8: {error.reason} at byte {error.start}")]
    except tomllib.TOMLDecodeError as error:
        return {}, [Problem(str(path), "", "", f"not TOML: {error}")]


def validate(kind: type[M], path: Path) -> tuple[M | None, list[Problem]]:
    """One file as a model, or every problem that it has."""
    raw, problems = read_toml(path)
    if problems:
        return None, problems
    try:
        return kind.model_validate(raw), []
    except ValidationError as error:
        return None, [_problem(path, raw, e["loc"], e["msg"]) for e in error.errors()]


def _problem(path: Path, raw: dict[str, Any], loc: Iterable[int | str], message: str) -> Problem:
    """Say where in the file it is, by the id of the entry it is in."""
    place: Any = raw
    name = ""
    steps: list[str] = []
    for step in loc:
        if isinstance(step, int):
            steps[-1] += f"[{step + 1}]"
        elif isinstance(place, dict) and step not in place and step == place.get("kind"):
            continue  # the tag of a union, not a key of the file
        else:
            steps.append(step)
        place = place[step] if _holds(place, step) else None
        if isinstance(place, dict):
            name = place.get("id") or place.get("name") or name
    return Problem(str(path), str(name), ".".join(steps), message.removeprefix("Value error, "))


def _holds(place: Any, step: int | str) -> bool:  # noqa: ANN401 - anything that TOML holds
    if isinstance(place, dict):
        return step in place
    return isinstance(place, list) and isinstance(step, int) and step < len(place)


def read_packs(folder: Path) -> tuple[list[Pack], list[Problem]]:
    """All packs of a folder, and what is wrong with them; their cases are not run.

    Of a pack with wrong entries the others are there, so that what refers to them can be checked too.
    """
    packs, problems = [], []
    paths = sorted(folder.glob("*.toml"))
    if not paths:
        problems.append(Problem(str(folder), "", "", "holds no pack (*.toml)"))
    for path in paths:
        pack, found = validate(Pack, path)
        problems += found
        if pack is None:
            pack = _without_wrong_entries(path)
        else:
            problems += [Problem(str(path), "", place, text) for place, text in pack.problems()]
        if pack is None:
            continue
        if pack.domain.id != path.stem:
            problems.append(Problem(str(path), pack.domain.id, "domain.id", f"must be the file's name, {path.stem!r}"))
        packs.append(pack)
    return packs, problems


def _without_wrong_entries(path: Path) -> Pack | None:
    raw, _ = read_toml(path)
    try:
        return Pack.model_validate(raw)
    except ValidationError as error:
        wrong = {tuple(e["loc"][:2]) for e in error.errors()}
    entries = {key: part for key, part in raw.items() if isinstance(part, list)}
    sound = {key: [e for i, e in enumerate(part) if (key, i) not in wrong] for key, part in entries.items()}
    try:
        return Pack.model_validate(raw | sound)
    except ValidationError:
        return None


def load_packs(folder: Path) -> list[Pack]:
    """The packs of a folder for a program that needs them right.

    Raises:
        ConfigError: with every problem.
    """
    packs, problems = read_packs(folder)
    if problems:
        raise ConfigError(problems)
    return packs


def load_topology(name: str) -> Topology:
    """A topology by path or bare name.

    Raises:
        ConfigError: with every problem.
    """
    topology, problems = validate(Topology, named("topologies", name))
    if topology is None:
        raise ConfigError(problems)
    return topology


def run_cases(folder: Path, packs: Iterable[Pack]) -> list[Problem]:
    """The inline tests of packs that are otherwise right."""
    return [
        Problem(str(folder / f"{pack.domain.id}.toml"), case.detector, f"case[{case.name}]", text)
        for pack in packs
        for case in pack.case
        for text in run_case(pack, case)
    ]


class Checked(Model):
    """What `check` looked at, and what it found."""

    n_packs: int
    n_detectors: int
    n_cases: int
    n_topologies: int
    n_channels: int
    problems: tuple[Problem, ...]


def check_all(packs_folder: Path, topology_paths: Iterable[Path]) -> Checked:
    """Every pack, with its cases where the pack is right, every topology, and every registry that a topology names."""
    packs, problems = read_packs(packs_folder)
    unsound = {problem.file for problem in problems}
    problems += run_cases(packs_folder, (p for p in packs if str(packs_folder / f"{p.domain.id}.toml") not in unsound))
    paths = list(topology_paths)
    cities: dict[Path, Catalog] = {}
    for path in paths:
        topology, found = validate(Topology, path)
        problems += found
        if topology is None:
            continue
        try:
            folder = topology.registry_path()
        except ConfigError as error:
            problems += [Problem(str(path), p.id, "registry", f"{p.file}: {p.text}") for p in error.problems]
            continue
        if folder not in cities:
            cities[folder], found = read_registry(folder, packs)
            problems += found
        problems += _misplaced(path, topology, cities[folder])
    return Checked(
        n_packs=len(packs),
        n_detectors=sum(len(p.detector) for p in packs),
        n_cases=sum(len(p.case) for p in packs),
        n_topologies=len(paths),
        n_channels=sum(len(city.channels) for city in cities.values()),
        problems=tuple(sorted(problems)),
    )


def _misplaced(path: Path, topology: Topology, city: Catalog) -> list[Problem]:
    """Incidents at places that the city does not have."""
    try:
        Scenario(city, topology.fleet, 0)
    except ConfigError as error:
        return [replace(problem, file=str(path)) for problem in error.problems]
    return []
