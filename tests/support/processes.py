"""How tests are spread over processes (`pytest -n 2`): files that start Ray or vLLM go to one of them, one after the other, since
two Rays of one machine join each other; any other file goes to whichever is free."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling


@functools.cache
def starts_ray(file: Path) -> bool:
    return bool(re.search(r"\bmark\.(cluster|engine)\b", file.read_text()))


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:  # xdist documents it as what to override
        file = nodeid.partition("::")[0]
        return "ray" if starts_ray(self.config.rootpath / file) else file
