"""vllm: one AsyncLLM, tensor x pipeline parallel, prompts as token ids, final outputs only.

`engine.options` are vLLM's own engine arguments. Defaults differ from vLLM's where a batch job needs it: weights
only from safetensors, no statistics log, a queue that honours places (lengths.py), workers as processes of this replica (`mp`).
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import threading
from collections.abc import Set
from typing import Any

import orjson
import pyarrow as pa

from batchgen import logprobs
from batchgen.engines import vllm_cpu
from batchgen.engines.base import Request
from batchgen.errors import BadRow, EngineError, JobError, words
from batchgen.job.job import Job
from batchgen.read import tables
from batchgen.records import Answer
from batchgen.render.model_files import ModelFiles

_RESERVED = ("model", "revision", "tensor_parallel_size", "pipeline_parallel_size", "trust_remote_code")
_PICKLES = ("pt", "npcache")
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Of all that PIL reads, what needs no other program: a row is untrusted."""
MOST_PIXELS = 2**26
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM allocates


class VllmEngine:
    def __init__(self, job: Job, model: ModelFiles) -> None:
        spec, options = job.engine, dict(job.engine.options)
        for name in _RESERVED:
            if name in options:
                raise JobError(f"engine.options.{name} is set elsewhere in the job")
        if options.get("load_format") in _PICKLES:
            raise JobError(f"engine.options.load_format {options['load_format']} executes pickles", "use safetensors")
        if vllm_cpu.runs_on_cpu():
            # A seeded row whose prefill is cut in two kills the CPU worker: "CPU Generator does not use offset".
            options.setdefault("enable_chunked_prefill", False)
        self._token_logprobs = job.output.token_logprobs
        self._adapters = model.adapters
        if model.adapters:
            needed = max(adapter.rank for adapter in model.adapters.values())
            rank = next((rank for rank in _LORA_RANKS if rank >= needed), needed)
            options = {"enable_lora": True, "max_lora_rank": rank, "max_loras": min(len(model.adapters), 8), **options}
            if vllm_cpu.runs_on_cpu():
                # A row without an adapter has index -1, which the CPU's kernels take for the last slot: it must stay empty.
                options["max_loras"] = max(options["max_loras"], len(model.adapters) + 1)
        self._arguments: dict[str, Any] = {
            "load_format": "safetensors",
            "disable_log_stats": True,
            "scheduling_policy": "priority",
            "distributed_executor_backend": "mp" if spec.tensor_parallel_size * spec.pipeline_parallel_size > 1 else None,
            **options,
            "model": model.source,
            "revision": model.revision,
            "tensor_parallel_size": spec.tensor_parallel_size,
            "pipeline_parallel_size": spec.pipeline_parallel_size,
            "trust_remote_code": bool(job.model and job.model.trust_remote_code),
        }
        self.capacity = self.workers = 0
        self._engine: Any = None
        self._cores: Set[int] = frozenset()
        self._dead: type[BaseException] = RuntimeError

    async def start(self) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.inputs import tokens_input
            from vllm.lora.request import LoRARequest
            from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
            from vllm.v1.engine.async_llm import AsyncLLM
            from vllm.v1.engine.exceptions import EngineDeadError
        except ImportError as error:
            raise EngineError(f"vLLM cannot be imported: {error}", "install batchgen[vllm] on every node") from error
        self._prompt, self._params, self._kind = tokens_input, SamplingParams, RequestOutputKind
        self._constraint, self._lora = StructuredOutputsParams, LoRARequest
        self._dead = EngineDeadError
        # While the engine's processes import vLLM, this one waits for them.
        threading.Thread(target=tables.warm_up, name="warm-up", daemon=True).start()
        if vllm_cpu.runs_on_cpu():
            vllm_cpu.keep_freed_memory()
        try:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments))
        except Exception as error:  # vLLM raises whatever its configuration or workers raise
            raise EngineError(f"vLLM did not start: {type(error).__name__}: {error}") from error
        self.capacity = self._engine.vllm_config.scheduler_config.max_num_seqs
        self.workers = self._engine.vllm_config.parallel_config.world_size
        if vllm_cpu.runs_on_cpu():
            self._cores = vllm_cpu.keep_off_workers()

    async def probe(self) -> None:
        try:
            await self._engine.is_paused()  # the engine's own process answers it, between two steps
        except self._dead as error:
            raise EngineError(f"vLLM died: {error}") from error

    async def stop(self) -> None:
        if self._cores:  # the next engine of this process inherits them
            vllm_cpu.run_on(os.getpid(), self._cores)
        if self._engine is not None:
            self._engine.shutdown(timeout=0)  # nothing is left to drain; the grace period takes five seconds

    async def generate(self, request: Request) -> list[Answer]:
        final: Any = None
        try:
            # skip_clone: vLLM deep-copies parameters that a caller might use again; these are used once.
            sampling = dict(request.sampling)
            del sampling["best_of"]  # vLLM has none: the task chooses
            adapter, constraint = sampling.pop("adapter"), sampling["structured_outputs"]
            if constraint is not None:
                sampling["structured_outputs"] = self._constraint(**orjson.loads(constraint))
            lora = None if adapter is None else self._lora(adapter, self._adapters[adapter].number, self._adapters[adapter].path)
            params = self._params(**sampling, output_kind=self._kind.FINAL_ONLY, skip_clone=True)
            prompt = self._prompt(request.token_ids)
            if request.images:
                pictures = await asyncio.to_thread(lambda: [_picture(url) for url in request.images])
                whole = {"prompt_token_ids": request.token_ids, "multi_modal_data": {"image": pictures}}
                [prompt] = await self._engine.renderer.render_cmpl_async([whole])
            async for output in self._engine.generate(prompt, params, request.name, lora_request=lora, priority=request.priority):
                final = output
        except self._dead as error:
            raise EngineError(f"vLLM died: {error}") from error
        except Exception as error:  # of this request alone: vLLM's own classes of it differ from version to version
            cause = error if str(error) else error.__cause__ or error  # vLLM wraps what it did not expect in an empty one
            raise BadRow("engine_rejected", f"{type(cause).__name__}: {words(cause)}") from None
        if final is None:
            raise EngineError("vLLM ended a request without an output")
        return [
            Answer(
                o.text,
                len(o.token_ids),
                o.finish_reason or "stop",
                o.cumulative_logprob,
                final.num_cached_tokens or 0,
                token_logprobs=_tokens(o, request.sampling.logprobs) if self._token_logprobs else None,
            )
            for o in sorted(final.outputs, key=lambda o: o.index)
        ]


def _tokens(output: Any, most: int | None) -> pa.StructArray | None:
    """The tokens of a vLLM CompletionOutput. A position has the chosen token and the `most` likeliest, which it may be one of."""
    if output.logprobs is None or most is None:
        return None
    tokens = []
    for chosen, position in zip(output.token_ids, output.logprobs, strict=False):
        likeliest = sorted((found for found in position.items() if found[1].rank <= most), key=lambda found: found[1].rank)
        top = [(token, found.decoded_token, found.logprob) for token, found in likeliest]
        tokens.append((chosen, position[chosen].decoded_token, position[chosen].logprob, top))
    return logprobs.of_answer(tokens)


def _picture(url: str) -> Any:
    """The image in a data URL."""
    import PIL.Image

    data = base64.b64decode(url.partition(",")[2], validate=True)
    image = PIL.Image.open(io.BytesIO(data), formats=PICTURES)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"an image of {image.width} x {image.height} pixels, over {MOST_PIXELS}")
    return image.convert("RGB")
