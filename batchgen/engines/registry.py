"""The engine kinds, by the name that `engine.kind` gives, and `engine.options` as the fields of a kind's own Spec."""

from typing import TypeVar

from pydantic import ValidationError

from batchgen.engines.base import EngineKind
from batchgen.errors import JobError
from batchgen.job.fields import Spec, explain
from batchgen.job.job import Job
from batchgen.registry import Registry

Options = TypeVar("Options", bound=Spec)

ENGINES: Registry[EngineKind] = Registry(
    "engine.kind",
    "batchgen.engines",
    {name: f"batchgen.engines.{name}:KIND" for name in ("vllm", "openai", "echo")},
)


def parse_options(job: Job, options: type[Options]) -> Options:
    """The options of the job's engine. Raises JobError that names those at fault, and all that there are."""
    try:
        return options.model_validate(job.engine.options)
    except ValidationError as error:
        mistakes = "; ".join(f"engine.options.{line}" for line in explain(error, options))
        raise JobError(mistakes, f"{job.engine.kind} has {', '.join(options.model_fields)}") from None
