"""Packages that are installed beside batchgen and add something to it by entry points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest


def install(folder: Path, patch: pytest.MonkeyPatch, groups: Mapping[str, Mapping[str, str]]) -> None:
    """Put a package `toys` on sys.path: by group the names and places (`module:attribute`) of its entry points."""
    about = folder / "toys-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    lines = [line for group, added in groups.items() for line in (f"[{group}]", *(f"{n} = {p}" for n, p in added.items()))]
    (about / "entry_points.txt").write_text("\n".join(lines))
    patch.syspath_prepend(folder)
