"""How tests are spread over processes (`pytest -n 2`): files that start Ray go to one of them, one after the other, since two
Rays of one machine join each other; so do files with an engine alone, which then have one of a kind; any other file goes to
whichever is free."""

from __future__ import annotations

import functools
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling


@functools.cache
def group(file: Path) -> str | None:
    """The process that a file must share with others, by its markers."""
    text = file.read_text()
    return next((name for name in ("cluster", "engine") if f"mark.{name}" in text), None)


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:  # xdist documents it as what to override
        file = nodeid.partition("::")[0]
        return group(self.config.rootpath / file) or file
