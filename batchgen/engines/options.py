"""`engine.options` as the fields of an engine's own Spec, and what every kind checks of a job."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from batchgen.errors import JobError
from batchgen.job.fields import Spec, explain
from batchgen.job.job import Job

Options = TypeVar("Options", bound=Spec)


def parse_options(job: Job, options: type[Options]) -> Options:
    """The options of the job's engine. Raises JobError that names those at fault, and all that there are."""
    try:
        return options.model_validate(job.engine.options)
    except ValidationError as error:
        mistakes = "; ".join(f"engine.options.{line}" for line in explain(error, options))
        raise JobError(mistakes, f"{job.engine.kind} has {', '.join(options.model_fields)}") from None


def require_model(job: Job) -> None:
    if job.model is None:
        raise JobError(f"engine.kind {job.engine.kind} needs a model", "set model.source")
