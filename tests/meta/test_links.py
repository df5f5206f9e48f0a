"""The pages of the project point at what is there: files, commands and targets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from lifeline_stream.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"(?<![\w./{-])(?:src|tests|docs|deploy|config|topologies|detectors|benchmarks)/[\w./-]*\w")
COMMAND = re.compile(r"\blifeline ([a-z]+)(?: ([a-z]+))?")
TARGET = re.compile(r"(?<!\S)make ([a-z][a-z0-9-]*)")

each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def code_of(page: Path) -> Iterator[str]:
    """What a page shows as code."""
    return (match.group().strip("`") for match in CODE.finditer(page.read_text("utf-8")))


def names_in(part: typer.Typer) -> set[str]:
    """The commands that a part of the command line shows."""
    shown = (command for command in part.registered_commands if not command.hidden)
    return {command.name or command.callback.__name__ for command in shown if command.callback}


def commands() -> dict[str, set[str]]:
    """Every command and its sub-commands."""
    groups = {
        str(group.name): names_in(group.typer_instance) for group in app.registered_groups if group.typer_instance
    }
    return {name: set() for name in names_in(app)} | groups


@each_page
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


@each_page
def test_every_path_that_is_named_exists(page: Path) -> None:
    named = {path for code in code_of(page) for path in PATH.findall(code)}
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


@each_page
def test_every_command_that_is_named_exists(page: Path) -> None:
    known = commands()
    for code in code_of(page):
        for name, sub in COMMAND.findall(code):
            assert name in known, code
            assert not known[name] or not sub or sub in known[name], code


@each_page
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {name for code in code_of(page) for name in TARGET.findall(code)} <= targets


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert {name for name in commands() if not re.search(rf"\b{name}\b", readme)} == set()
