"""`engine.options` as the fields of an engine's own Spec."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from batchgen.errors import JobError
from batchgen.job.fields import Spec
from batchgen.job.job import Job

Options = TypeVar("Options", bound=Spec)


def parse_options(job: Job, options: type[Options]) -> Options:
    """The options of the job's engine. Raises JobError that names those at fault and all that there are."""
    try:
        return options.model_validate(job.engine.options)
    except ValidationError as error:
        causes = [f"engine.options.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise JobError("; ".join(causes), f"{job.engine.kind} has {', '.join(options.model_fields)}") from None
