"""vllm: one AsyncLLM, tensor x pipeline x data parallel, prompts as token ids, final outputs only.

`engine.options` are vLLM's own engine arguments. Defaults differ from vLLM's where a batch job needs it: weights only from
safetensors, no statistics log, a queue that honours priorities. Workers are processes of this replica (`mp`), or, where it may
be spread over several nodes, Ray actors in its placement group."""

import asyncio
import base64
import contextlib
import gc
import importlib
import io
import os
from collections.abc import Iterator, Mapping, Set
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from batchgen.engines import vllm_cpu, vllm_gpu
from batchgen.engines.base import NODES, EngineKind, PoolingRequest, Request
from batchgen.engines.vllm_options import check_options, installed_version
from batchgen.engines.vllm_replies import pooling
from batchgen.engines.vllm_replies.parsers import Names, Parsers, Reader, check_parsers, parser_names
from batchgen.engines.vllm_sampling import mistake
from batchgen.engines.vllm_sampling.scores import prompt_logprobs, token_logprobs
from batchgen.errors import BadRow, EngineError, JobError, safe_message
from batchgen.job.fields import Fields
from batchgen.job.job import Job
from batchgen.job.pooling import POOLED
from batchgen.job.sampling import check_sampling
from batchgen.jsontext import loads
from batchgen.records import Answer, Pooled
from batchgen.render.capabilities import Capabilities
from batchgen.render.model_files import Adapter, ModelFiles

if TYPE_CHECKING:
    from PIL.Image import Image

NAMES = {
    "AsyncEngineArgs": "vllm.engine.arg_utils",
    "AsyncLLM": "vllm.v1.engine.async_llm",
    "ChatCompletionRequest": "vllm.entrypoints.openai.chat_completion.protocol",
    "EngineDeadError": "vllm.v1.engine.exceptions",
    "LoRARequest": "vllm.lora.request",
    "PoolingParams": "vllm.pooling_params",
    "ParserManager": "vllm.parser.parser_manager",
    "RequestOutputKind": "vllm.sampling_params",
    "SamplingParams": "vllm.sampling_params",
    "StructuredOutputsParams": "vllm.sampling_params",
    "tokens_input": "vllm.inputs",
}
"""All names that are imported from vLLM, with their modules, which may change. vllm_options.py reads the source of the first one.
tests/engines/test_vllm_names.py notices the loss of a name, or of an attribute in use, which it lists."""
OF_PARSERS = ("ChatCompletionRequest", "ParserManager")
NO_PARSERS = Names()
ELSEWHERE = {"best_of", "adapter", "reasoning_effort", "chat_template_kwargs", "tools", "tool_choice", "parallel_tool_calls"}
"""Fields of a Sampling that the task, the chat template, a LoRA request or vLLM's parsers serve."""
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""The formats of images that are read: those of PIL that need no other program. A row is untrusted."""
MOST_PIXELS = 2**26
MEMORY_SHARE = 0.9  # of a fraction of a GPU; the rest is the CUDA context's, and of what vLLM does not count
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM allocates


def engine_arguments(job: Job, model: ModelFiles, nodes: int = 1) -> dict[str, object]:
    """AsyncEngineArgs of a job: batchgen's defaults, the job's options, and what other fields of the job set. `nodes`: over which
    the replica may be spread."""
    spec = job.engine
    options: dict[str, object] = {
        "load_format": "safetensors",
        "disable_log_stats": True,
        "scheduling_policy": "priority",
    }
    if spec.gpus is not None and spec.gpus < 1:
        options["gpu_memory_utilization"] = MEMORY_SHARE * spec.gpus
    if model.adapters:
        needed = max(adapter.rank for adapter in model.adapters.values())
        options["enable_lora"], options["max_loras"] = True, min(len(model.adapters), 8)
        options["max_lora_rank"] = next((rank for rank in _LORA_RANKS if rank >= needed), needed)
    return {
        **vllm_cpu.arguments(options | spec.options, len(model.adapters)),
        "model": model.source,
        "revision": model.revision,
        "tensor_parallel_size": spec.tensor_parallel_size,
        "pipeline_parallel_size": spec.pipeline_parallel_size,
        "data_parallel_size": spec.data_parallel_size,
        "enable_expert_parallel": spec.expert_parallel,
        "distributed_executor_backend": "ray" if nodes > 1 else "mp" if spec.ranks > 1 else None,
        "trust_remote_code": bool(job.model and job.model.trust_remote_code),
        **pooling.arguments(job),
    } | ({"reasoning_parser": named} if (named := parser_names(job, model).reasoning) else {})


class VllmEngine:
    """`arguments` are vLLM's AsyncEngineArgs; `shares_gpu`: other engines may be on its GPU. `parsers` read the answers of a
    model with these `variables` of its chat template."""

    def __init__(
        self,
        arguments: dict[str, object],
        adapters: Mapping[str, Adapter],
        token_logprobs: bool = False,
        shares_gpu: bool = False,
        parsers: Names = NO_PARSERS,
        variables: Fields | None = None,
    ) -> None:
        self._arguments, self._adapters, self._token_logprobs = arguments, adapters, token_logprobs
        self._shares_gpu, self._names, self._variables = shares_gpu, parsers, variables or {}
        self._parsers: Parsers | None = None
        self.capacity = self.workers = 0
        self._vllm = SimpleNamespace()
        self._engine: Any = None
        self._cores: Set[int] = frozenset()

    async def start(self) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            self._vllm = SimpleNamespace(**{name: getattr(importlib.import_module(at), name) for name, at in self._needed()})
        except (ImportError, AttributeError) as error:
            raise EngineError(f"vLLM cannot be imported: {error}", "install batchgen[vllm] on every node") from error
        try:
            arguments = self._vllm.AsyncEngineArgs(**self._arguments)
            async with vllm_gpu.turn(self._shares_gpu):
                self._engine, self._cores = vllm_cpu.start(lambda: self._vllm.AsyncLLM.from_engine_args(arguments))
                await pooling.refuse_model(self._engine, self._arguments)
        except EngineError:
            await self.stop()
            raise
        except Exception as error:  # vLLM raises whatever its configuration or workers raise
            raise EngineError(f"vLLM did not start: {type(error).__name__}: {error}") from error
        parallel = self._engine.vllm_config.parallel_config
        self.capacity = self._engine.vllm_config.scheduler_config.max_num_seqs * parallel.data_parallel_size
        self.workers = parallel.world_size * parallel.data_parallel_size
        if any(self._names):
            self._parsers = Parsers(self._vllm, self._engine, self._names, self._variables)
        gc.freeze()  # as vLLM's own server does: a full collection would visit all that its modules hold, while the engine waits

    def _needed(self) -> Iterator[tuple[str, str]]:
        """The names of vLLM that this engine uses: those of its server take seconds to import."""
        yield from ((name, at) for name, at in NAMES.items() if any(self._names) or name not in OF_PARSERS)

    async def probe(self) -> None:
        try:
            await self._engine.is_paused()  # the engine's own process answers it, between two steps
        except self._vllm.EngineDeadError as error:
            raise EngineError(f"vLLM died: {error}") from error

    async def stop(self) -> None:
        vllm_cpu.run_on(os.getpid(), self._cores)  # the next engine of this process inherits its cores
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.shutdown(timeout=0)  # nothing is left to drain; the grace period takes five seconds

    async def generate(self, request: Request) -> list[Answer]:
        final: Any = None
        with self._of_one_request():
            prompt, reader = await self._prompt(request), self._parsers.reader(request) if self._parsers else None
            more = {"lora_request": self._lora(request.sampling.adapter), "priority": request.priority}
            more |= reader.more if reader else {}
            async for output in self._engine.generate(prompt, self._parameters(request, reader), request.name, **more):
                final = output
        if final is None:
            raise EngineError("vLLM ended a request without an output")
        answers, of_prompt = [], prompt_logprobs(final, request.sampling.prompt_logprobs)
        for output in sorted(final.outputs, key=lambda output: output.index):
            reason, logprob, cached = output.finish_reason or "stop", output.cumulative_logprob, final.num_cached_tokens or 0
            scored = token_logprobs(output, request.sampling.logprobs) if self._token_logprobs else None
            counted = reason, logprob, cached
            answer = Answer(output.text, len(output.token_ids), *counted, token_logprobs=scored, prompt_logprobs=of_prompt)
            answers.append(reader.read(answer, output) if reader else answer)
        return answers

    async def pool(self, request: PoolingRequest) -> Pooled:
        with self._of_one_request():
            return await pooling.pool(self._engine, self._vllm, request)

    @contextlib.contextmanager
    def _of_one_request(self) -> Iterator[None]:
        """What vLLM raises as EngineError where it died, else as BadRow (engine_rejected)."""
        try:
            yield
        except (BadRow, EngineError):
            raise
        except self._vllm.EngineDeadError as error:
            raise EngineError(f"vLLM died: {error}") from error
        except Exception as error:  # of this request alone: vLLM's own classes of it differ from version to version
            cause = error if str(error) else error.__cause__ or error  # vLLM wraps what it did not expect in an empty one
            raise BadRow("engine_rejected", f"{type(cause).__name__}: {safe_message(cause)}") from None

    async def _prompt(self, request: Request) -> object:
        if not request.images:
            return self._vllm.tokens_input(request.token_ids)
        pictures = await asyncio.to_thread(lambda: [read_picture(url) for url in request.images])
        whole = {"prompt_token_ids": request.token_ids, "multi_modal_data": {"image": pictures}}
        [prompt] = await self._engine.renderer.render_cmpl_async([whole])
        return prompt

    def _parameters(self, request: Request, reader: Reader | None = None) -> object:
        """vLLM's SamplingParams; it has none of ELSEWHERE."""
        fields = {name: value for name, value in request.sampling if name not in ELSEWHERE}
        if request.sampling.structured_outputs is not None:
            constraint = loads(request.sampling.structured_outputs)
            fields["structured_outputs"] = self._vllm.StructuredOutputsParams(**constraint)
        if request.sampling.logit_bias is not None:
            fields["logit_bias"] = {int(token): bias for token, bias in loads(request.sampling.logit_bias).items()}
        fields |= reader.fields if reader else {}
        # skip_clone: vLLM deep-copies parameters that a caller might use again; these are used once.
        return self._vllm.SamplingParams(**fields, output_kind=self._vllm.RequestOutputKind.FINAL_ONLY, skip_clone=True)

    def _lora(self, name: str | None) -> object:
        return None if name is None else self._vllm.LoRARequest(name, self._adapters[name].number, self._adapters[name].path)


def read_picture(url: str) -> "Image":
    """The image in a data URL, as RGB. Raises ValueError or PIL's errors for anything else."""
    import PIL.Image

    data = base64.b64decode(url.partition(",")[2], validate=True)
    image = PIL.Image.open(io.BytesIO(data), formats=PICTURES)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"an image of {image.width} x {image.height} pixels, over {MOST_PIXELS}")
    return image.convert("RGB")


class VllmKind:
    @property
    def capabilities(self) -> Capabilities:
        device = "cpu" if vllm_cpu.runs_on_cpu() else "gpu"
        version = installed_version()
        tasks = frozenset(("generate", *POOLED))
        return Capabilities(
            device=device, mistake=mistake, spreads_copies=False, tasks=tasks, version=version, packages=("vllm",)
        )

    def check(self, job: Job) -> None:
        check_options(job.engine.options)
        pooling.refuse_options(job)
        check_parsers(job)
        if wrong := mistake(check_sampling(job.constant_sampling)):
            raise JobError(f"sampling.{wrong}")

    def context(self, job: Job) -> int | None:
        return job.engine.options.get("max_model_len")

    def make(self, job: Job, model: ModelFiles) -> VllmEngine:
        arguments = engine_arguments(job, model, int(os.environ.get(NODES, "1")))
        shares = job.engine.gpus is not None and job.engine.gpus < 1
        variables = job.model.chat_template_kwargs if job.model else {}
        return VllmEngine(arguments, model.adapters, job.output.token_logprobs, shares, parser_names(job, model), variables)


KIND: EngineKind = VllmKind()
