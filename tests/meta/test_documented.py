"""What a user must find documented: settings, commands, kinds of detector."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lifeline_stream.cli import app
from lifeline_stream.core.packs import AnyDetector
from lifeline_stream.core.plan import KINDS
from lifeline_stream.settings import Settings, load_settings
from reference import TWINS

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "lifeline.toml"


def fields(model: type[BaseModel], section: str = "") -> Iterator[tuple[str, str, FieldInfo]]:
    """Section, key and field of every setting."""
    for key, field in model.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, key)
        else:
            yield section, key, field


def documented() -> dict[tuple[str, str], Any]:
    """The file with its commented defaults in force: section and key → value."""
    text = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", CONFIG.read_text(encoding="utf-8"))
    found: dict[tuple[str, str], Any] = {}
    for key, value in tomllib.loads(text).items():
        inner = value if isinstance(value, dict) else {key: value}
        found |= {(key if isinstance(value, dict) else "", name): cell for name, cell in inner.items()}
    return found


def plain(default: Any) -> Any:
    """A default as TOML would write it."""
    if default is None:
        return ""
    if isinstance(default, Path):
        return str(default)
    return list(default) if isinstance(default, tuple) else default


def test_every_setting_stands_in_the_file_with_its_true_default() -> None:
    defaults = {(section, key): plain(field.default) for section, key, field in fields(Settings)}
    assert len(defaults) > 20
    assert documented() == defaults


def test_every_setting_has_prose_above_it_or_a_remark_behind_it() -> None:
    explained = False
    for line in CONFIG.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            explained = False
        explained |= line.startswith("## ")
        if re.match(r"(# )?[a-z_]+ = ", line):
            assert explained or re.search(r" # \S", line), line


def test_the_shipped_file_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, key, _ in fields(Settings):
        assert key == key.lower()
    monkeypatch.setattr("os.environ", {})
    assert load_settings(CONFIG) == Settings()


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    if hasattr(command, "commands"):
        for word, inner in command.commands.items():
            yield from commands(inner, f"{name} {word}".strip())
    elif not command.hidden:
        yield name, command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_help_for_each_option(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    example = re.search(r"Example: (.*)", command.help)
    assert example, f"{name} shows no example"
    assert f"lifeline {name}" in example[1]
    for option in command.params:
        if option.param_type_name == "option" and "--help" not in option.opts:
            assert option.help, f"{name} {option.opts[0]} has no help"


def test_every_kind_of_detector_has_a_model_a_kernel_and_a_twin() -> None:
    union, *_ = get_args(AnyDetector)
    modelled = {get_args(model.model_fields["kind"].annotation)[0] for model in get_args(union)}
    assert modelled == set(KINDS) == set(TWINS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_shows_an_example(kind: str) -> None:
    assert ">>>" in (KINDS[kind].step.__doc__ or "")
