"""Numbers that vLLM's pooling runner reads from texts: the engine's arguments for a task, one request for each text, its output.
Names of vLLM come from the table in engines/vllm.py."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from batchgen.engines.base import PoolingRequest, Text
from batchgen.errors import BadRow, EngineError, JobError
from batchgen.job.job import Job
from batchgen.records import Pooled

Live = Any
"""vLLM's AsyncLLM, of whose types mypy knows nothing; so are a tensor and an output."""
OF_RUNNER = ("runner", "convert")
_CONVERT = {"embed": "embed"}
"""What vLLM makes of a model that was trained to generate; one for the task stays as it is."""


def arguments(job: Job) -> dict[str, object]:
    """AsyncEngineArgs that the job's task sets."""
    return {"runner": "pooling", "convert": _kind(job.task)} if job.pools else {}


def refuse_options(job: Job) -> None:
    """Raises JobError for an option that the job's task sets."""
    if job.pools and (name := next((name for name in OF_RUNNER if name in job.engine.options), None)):
        raise JobError(f"engine.options.{name}: leave it out; task {job.task} sets it")


async def refuse_model(engine: Live, arguments: Mapping[str, object]) -> None:
    """Raises EngineError where the started engine says that its model is none for the job's task."""
    if arguments.get("runner") != "pooling":
        return
    wanted, known = arguments["convert"], list(map(str, await engine.get_supported_tasks()))
    if wanted not in known:
        cause = f"the model is none to {wanted} with; vLLM says that it can {', '.join(known) or 'nothing'}"
        raise EngineError(cause, "name a model for the job's task")


def _kind(task: str) -> str:
    return _CONVERT.get(task, "classify")


async def pool(engine: Live, vllm: SimpleNamespace, request: PoolingRequest) -> Pooled:
    """The numbers of each text. Raises BadRow (engine_rejected), and what vLLM raises."""
    if len(request.texts) == 1:
        numbers, cached = await _read(engine, vllm, request, request.texts[0], request.name)
        return Pooled([numbers], cached_tokens=cached)
    texts = enumerate(request.texts)
    try:
        async with asyncio.TaskGroup() as group:
            each = [group.create_task(_read(engine, vllm, request, text, f"{request.name}.{number}")) for number, text in texts]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    found = [one.result() for one in each]
    return Pooled([numbers for numbers, _ in found], cached_tokens=sum(cached for _, cached in found))


async def _read(engine: Live, vllm: SimpleNamespace, request: PoolingRequest, text: Text, name: str) -> tuple[pa.FloatArray, int]:
    pooling = request.pooling
    extra: Mapping[str, object] | None = None if text.second is None else {"compressed_token_type_ids": text.second}
    parameters = vllm.PoolingParams(
        task=_kind(request.task),
        use_activation=pooling.is_normalized(request.task),
        dimensions=pooling.dimensions,
        extra_kwargs=extra,
    )
    final: Live = None
    async for output in engine.encode(vllm.tokens_input(text.token_ids), parameters, name, priority=request.priority):
        final = output
    if final is None:
        raise EngineError("vLLM ended a request without an output")
    if final.error is not None:
        raise BadRow("engine_rejected", f"vLLM: {final.error}")
    return numbers_in(final.outputs.data), final.num_cached_tokens or 0


def numbers_in(data: Live) -> pa.FloatArray:
    """The numbers of a torch tensor of one dimension. Raises BadRow (engine_rejected) for another."""
    if data.ndim == 0:
        data = data.reshape(1)
    if data.ndim != 1:
        raise BadRow("engine_rejected", f"vLLM gave numbers of shape {tuple(data.shape)}, one list is wanted")
    return pa.array(np.asarray(data.float().cpu().numpy(), np.float32))
