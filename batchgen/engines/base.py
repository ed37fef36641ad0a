"""What an engine is (prompts as token ids in, `n` answers or numbers out), and the engine kinds by name.

An engine refuses one prompt with BadRow(engine_rejected) and goes on; EngineError means that it is dead."""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import ValidationError

from batchgen.errors import EngineError, JobError
from batchgen.job.fields import Spec, explain
from batchgen.job.job import Job
from batchgen.job.pooling import Pooling
from batchgen.job.sampling import Sampling
from batchgen.records import Answer, Pooled
from batchgen.registry import Registry
from batchgen.render.capabilities import Capabilities
from batchgen.render.model_files import ModelFiles

Options = TypeVar("Options", bound=Spec)
NODES = "BATCHGEN_REPLICA_NODES"
"""The environment variable of a replica's process that says over how many nodes it may be spread; missing: one."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for an engine. `name` is unique among running requests. Of the waiting requests the one with the lowest
    `priority` runs first. `images` are those of the conversation, as data URLs, in order."""

    name: str
    token_ids: list[int]
    sampling: Sampling
    priority: int = 0
    images: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """What a model reads at once: a text, or a pair of which the second text begins at token `second`; None: it is not told."""

    token_ids: list[int]
    second: int | None = None


@dataclass(frozen=True, slots=True)
class PoolingRequest:
    """The texts of one prompt for an engine that reads numbers from them, and the `task` of POOLED. A text has `size` numbers (of
    a vector, of the labels, or one); None: nobody knows how many. A request to an endpoint is one text, also of several pairs."""

    name: str
    task: str
    pooling: Pooling
    texts: Sequence[Text]
    size: int | None
    priority: int = 0


class Engine(Protocol):
    capacity: int
    """Sequences that run at once; a replica keeps more than these waiting."""
    workers: int
    """Processes or GPUs that hold the model together."""

    async def start(self) -> None:
        """Load the model. Raises EngineError with the engine's own words."""

    async def generate(self, request: Request) -> list[Answer]:
        """The `sampling.n` answers to one prompt, complete. An engine ignores `best_of`, which the task serves. Raises BadRow
        when the engine refuses this prompt, EngineError when it died."""

    async def probe(self) -> None:
        """Returns while the engine works; raises EngineError when it died, and never returns when it hangs."""

    async def stop(self) -> None: ...


class PoolingEngine(Engine, Protocol):
    """An engine whose capabilities have one of the tasks POOLED."""

    async def pool(self, request: PoolingRequest) -> Pooled:
        """The numbers of each text, of an endpoint's request those of each pair. Raises as `generate`."""


class EngineKind(Protocol):
    """What `engine.kind` names. A job is checked with it before a cluster starts; a replica makes its engine with it."""

    @property
    def capabilities(self) -> Capabilities:
        """Those of the engine that is installed here; the driver and the workers ask."""

    def check(self, job: Job) -> None:
        """Raises JobError for a job that this kind cannot run, for example with unknown options. The job has a model if the kind
        needs one. Imports neither torch nor an engine."""

    def context(self, job: Job) -> int | None:
        """The context that the options set, in tokens; None for the model's own."""

    def make(self, job: Job, model: ModelFiles) -> Engine:
        """An engine that is not started, for a job that passed `check`."""


_BUILT_IN = {name: f"batchgen.engines.{name}:KIND" for name in ("vllm", "openai", "echo")}
ENGINES: Registry[EngineKind] = Registry("engine.kind", "batchgen.engines", _BUILT_IN)


def refuse_missing(*jobs: Job | None) -> None:
    """Raises EngineError where the packages of these jobs' engines are not installed here, on the machine that is to run them."""
    for job in jobs:
        if job is not None:
            _refuse_missing(job.engine.kind)


def _refuse_missing(kind: str) -> None:
    for name in ENGINES.named(kind).capabilities.packages:
        if importlib.util.find_spec(name) is None:
            extra = f"pip install 'batchgen[{kind}]'" if kind in _BUILT_IN else f"install {name}"
            cause = f"engine {kind} needs the package {name}, which is not installed here ({sys.executable})"
            raise EngineError(cause, f"{extra}, or rehearse without it: --engine echo")


def parse_options(job: Job, options: type[Options]) -> Options:
    """The options of the job's engine. Raises JobError that names each mistake and lists all options."""
    try:
        return options.model_validate(job.engine.options)
    except ValidationError as error:
        mistakes = "; ".join(f"engine.options.{line}" for line in explain(error, options))
        raise JobError(mistakes, f"{job.engine.kind} has {', '.join(options.model_fields)}") from None
