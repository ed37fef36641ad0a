"""One vLLM engine in the process of the tests, for those that are not about its start."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from batchgen.engines.base import Request
from batchgen.engines.vllm import KIND
from batchgen.records import Answer
from batchgen.render.model_files import load_model
from tests.support.rendering import TINY, make_job

OPTIONS = {"max_model_len": 1024, "max_num_seqs": 32, "dtype": "float32", "enforce_eager": True}


@dataclass
class Shared:
    """An engine that is started already, and stopped by the fixture. `run` runs on its loop."""

    engine: Any
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    cores: set[int]
    """Those of this process before the engine was started."""
    capacity: int = 0
    workers: int = 0

    async def start(self) -> None:
        self.capacity, self.workers = self.engine.capacity, self.engine.workers

    async def stop(self) -> None: ...

    async def probe(self) -> None:
        await self.engine.probe()

    async def generate(self, request: Request) -> list[Answer]:
        answers: list[Answer] = await self.engine.generate(request)
        return answers


@contextlib.contextmanager
def vllm_engine() -> Iterator[Shared]:
    """Of the tiny model in float32."""
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        # The engine itself says so.
        for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
            patch.setenv(name, "")
            patch.delenv(name)
        patch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # this process may have threads
        job = make_job(
            model={"source": str(TINY)},
            engine={"kind": "vllm", "options": OPTIONS},
            sampling={"logprobs": 0},
            output={"path": "out", "token_logprobs": True},
        )
        cores = os.sched_getaffinity(0)
        shared = Shared(KIND.make(job, load_model(job.model)), runner.run, cores)
        runner.run(shared.engine.start())
        try:
            yield shared
        finally:
            runner.run(shared.engine.stop())
            assert os.sched_getaffinity(0) == cores
