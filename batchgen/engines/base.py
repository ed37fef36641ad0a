"""What an engine is: prompts as token ids in, `n` answers out.

An engine refuses one prompt with BadRow(engine_rejected) and goes on; EngineError means that it is dead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from batchgen.job.job import Job
from batchgen.job.sampling import Sampling
from batchgen.records import Answer, Capabilities
from batchgen.render.model_files import ModelFiles


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for an engine. `name` is unique among running requests; of the requests that wait, one with a lower `priority`
    runs first; `images` are those of the conversation, as data URLs, in order."""

    name: str
    token_ids: list[int]
    sampling: Sampling
    priority: int = 0
    images: Sequence[str] = ()


class Engine(Protocol):
    capacity: int
    """Sequences that run at once; a replica keeps more than these waiting."""
    workers: int
    """Processes or GPUs that hold the model together."""

    async def start(self) -> None:
        """Load the model. Raises EngineError with the engine's own words."""
        ...

    async def generate(self, request: Request) -> list[Answer]:
        """The `sampling.n` answers to one prompt, complete. `best_of` is the task's to serve: an engine ignores it.

        Raises BadRow when the engine refuses this prompt, EngineError when it died.
        """
        ...

    async def probe(self) -> None:
        """Returns while the engine works; raises EngineError when it died, and never returns when it hangs."""
        ...

    async def stop(self) -> None: ...


class EngineKind(Protocol):
    """What `engine.kind` names. A job is checked with it before a cluster starts; a replica makes its engine with it."""

    @property
    def capabilities(self) -> Capabilities:
        """Asked on the driver and on workers, of what is installed there."""
        ...

    def check(self, job: Job) -> None:
        """Raises JobError for a job that this kind cannot run, such as options that it does not have. A model is there already if
        the kind needs one. Imports neither torch nor an engine."""
        ...

    def context(self, job: Job) -> int | None:
        """The context that the options set, in tokens; None for the model's own."""
        ...

    def make(self, job: Job, model: ModelFiles) -> Engine:
        """An engine that is not started, for a job that `check` let pass."""
        ...
