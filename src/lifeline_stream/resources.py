"""Where declarations are found: an explicit path, else what the wheel ships, else the checkout."""

from __future__ import annotations

from pathlib import Path

from lifeline_stream.errors import ConfigError, Problem

_PACKAGE = Path(__file__).parent
SHIPPED = _PACKAGE / "_shipped"
CHECKOUT = _PACKAGE.parents[1]


def find(folder: str, name: str = "", explicit: Path | str | None = None) -> Path:
    """The path of a declaration, or of a whole folder of them.

    Args:
        folder: `detectors`, `topologies`, `config` or `deploy`.
        name: file or folder in it; empty for the folder itself.
        explicit: what the user said; it must exist.

    Raises:
        ConfigError: it is nowhere.
    """
    if explicit is not None:
        path = Path(explicit)
        if path.exists():
            return path
        raise ConfigError([Problem(str(path), "", "", "no such file or folder")])
    for root in (SHIPPED, CHECKOUT):
        path = root / folder / name
        if path.exists():
            return path
    raise ConfigError([Problem(f"{folder}/{name}", "", "", f"found neither in {SHIPPED} nor in {CHECKOUT}")])


def named(folder: str, name: str) -> Path:
    """A declaration by path, or by bare name with or without `.toml`: `demo` is `topologies/demo.toml`.

    Raises:
        ConfigError: it is neither.
    """
    if Path(name).exists():
        return Path(name)
    return find(folder, name if name.endswith(".toml") else f"{name}.toml")
