"""Engines behind one protocol: prompts as token ids in, `n` outputs out.

An engine refuses one prompt with BadRow(engine_rejected) and goes on; EngineError means that it is dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from batchgen.job.job import Job
from batchgen.records import Answer
from batchgen.render.model_files import ModelFiles


class Engine(Protocol):
    capacity: int
    """Sequences that run at once; a replica keeps more than these waiting."""
    workers: int
    """Processes or GPUs that hold the model together."""

    async def start(self) -> None:
        """Load the model. Raises EngineError with the engine's own words."""
        ...

    async def generate(
        self, request: str, token_ids: list[int], sampling: dict[str, Any], place: int = 0, images: Sequence[str] = ()
    ) -> list[Answer]:
        """The `sampling["n"]` outputs of one prompt, complete, whatever `best_of` says: answer.py chooses. `request` is unique
        among running ones; of the prompts that wait, one with a lower `place` goes first. `images` are those of the
        conversation, as data URLs.

        Raises BadRow when the engine refuses this prompt, EngineError when it died.
        """
        ...

    async def probe(self) -> None:
        """Returns while the engine works; raises EngineError when it died, and never returns when it hangs."""
        ...

    async def stop(self) -> None: ...


def make_engine(job: Job, model: ModelFiles) -> Engine:
    """The engine of `job.engine.kind`, not started. Raises JobError for options it does not have."""
    if job.engine.kind == "echo":
        from batchgen.engines.echo import EchoEngine

        return EchoEngine(job, model)
    if job.engine.kind == "openai":
        from batchgen.engines.openai import OpenAIEngine

        return OpenAIEngine(job, model)
    from batchgen.engines.vllm import VllmEngine

    return VllmEngine(job, model)
