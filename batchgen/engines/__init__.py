"""Engines behind one protocol (base.py)."""

from __future__ import annotations

from batchgen.engines.base import Engine
from batchgen.job.job import Job
from batchgen.render.model_files import ModelFiles


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
