"""SQL statements of a module, from the `.sql` file beside it."""

from __future__ import annotations

import re
from pathlib import Path

_HEADER = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def load(module_file: str) -> dict[str, str]:
    """Statements by name: each begins with a line `-- name --`.

    Args:
        module_file: `__file__` of the module; `writer.py` reads `writer.sql`.
    """
    return parse(Path(module_file).with_suffix(".sql").read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, str]:
    r"""Split a file at its headers.

    >>> parse("-- one --\nSELECT 1;\n-- two --\nSELECT 2;")
    {'one': 'SELECT 1', 'two': 'SELECT 2'}
    """
    _, *parts = _HEADER.split(text)
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}
