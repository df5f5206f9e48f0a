"""Build hook: a wheel carries the declarations that a checkout has beside its code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("detectors", "topologies", "config", "deploy")
SUFFIXES = {".toml", ".csv", ".conf", ".acl"}


class ShippedDeclarations(BuildHookInterface[Any]):
    """Copies packs, topologies and configuration into `lifeline_stream/_shipped/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Collect them for a real wheel; an editable install reads the checkout."""
        if version == "editable":
            return
        root = Path(self.root)
        shipped = root / "build" / "_shipped"
        shutil.rmtree(shipped, ignore_errors=True)
        for folder in FOLDERS:
            for path in sorted((root / folder).rglob("*")):
                if path.suffix in SUFFIXES and "node_modules" not in path.parts:
                    target = shipped / path.relative_to(root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, target)
        build_data["force_include"][str(shipped)] = "lifeline_stream/_shipped"
