"""The tasks, by the name that the job's `task` gives. A task turns a prompt into its completions, through an engine."""

from typing import Protocol, runtime_checkable

from batchgen.engines.base import Engine
from batchgen.records import Completion, Prompt
from batchgen.registry import Registry
from batchgen.render.renderer import Renderer


class Task(Protocol):
    """What one replica does with every prompt."""

    async def complete(self, index: int, prompt: Prompt, priority: int) -> list[Completion]:
        """The completions of the prompt at `index` of a span, one for each of its samples, in order; of a retry, those that
        failed. A failed sample is a completion with an error. `priority` is that of the requests. Raises TooManyErrors where the
        job says `fail` for the class of an error, EngineError when the engine is given up."""


@runtime_checkable
class Judging(Protocol):
    """A task that asks a judge, where the job has one with an engine of its own (Job.judge)."""

    def judge_with(self, engine: Engine) -> None: ...


class TaskKind(Protocol):
    """Makes the task of a replica. `uses` is the capability that it needs of an engine."""

    uses: str

    def __call__(self, renderer: Renderer, engine: Engine) -> Task: ...


_POOLING = {"embed": "Embedding", "classify": "Classification", "score": "Scoring", "rerank": "Reranking", "reward": "Reward"}
_BUILT_IN = {"generate": f"{__name__}.generate:Generation"}
_BUILT_IN |= {task: f"{__name__}.pooling:{name}" for task, name in _POOLING.items()}
TASKS: Registry[TaskKind] = Registry("task", "batchgen.tasks", _BUILT_IN)
