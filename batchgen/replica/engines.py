"""The engines of a replica: the job's, and that of its judge where this is another. Each is guarded (engines/restarting)."""

import functools
import os

from batchgen.engines.base import ENGINES, Engine
from batchgen.engines.restarting import RestartingEngine
from batchgen.errors import SECRET_NAMES
from batchgen.render.renderer import Renderer


class Engines:
    """Makes the engines of a job, unless `own` is given; both start and stop together."""

    def __init__(self, renderer: Renderer, own: Engine | None = None) -> None:
        self.own = _guarded(renderer, own)
        self.judge = None if renderer.judge is None else _guarded(renderer.judge)

    async def start(self) -> None:
        """Raises EngineError."""
        for engine in self._all:
            await engine.start()

    async def stop(self) -> None:
        for engine in self._all:
            await engine.stop()

    @property
    def restarts(self) -> int:
        return sum(getattr(engine, "restarts", 0) for engine in self._all)

    def taken_causes(self) -> list[str]:
        """What engines died of since this was asked last."""
        found: list[str] = []
        for engine in self._all:
            causes = getattr(engine, "causes", [])
            found += causes
            causes.clear()
        return found

    @property
    def _all(self) -> list[Engine]:
        return [self.own] if self.judge is None else [self.own, self.judge]


def _guarded(renderer: Renderer, given: Engine | None = None) -> Engine:
    job = renderer.job
    os.environ.update(job.engine.env)
    SECRET_NAMES.update(str(name) for option, name in job.engine.options.items() if option.endswith("_env"))
    if given is not None:
        return given
    make = functools.partial(ENGINES.named(job.engine.kind).make, job, renderer.model)
    return RestartingEngine(make, job.engine.watchdog_seconds, job.limits.row_seconds)
