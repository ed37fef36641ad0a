"""The field `errors` of a job: what becomes of a row that failed, by the class of its failure."""

from typing import Literal

from pydantic import Field, field_validator

from batchgen.errors import ErrorCode
from batchgen.job.fields import Fields, Spec
from batchgen.job.sampling import check_sampling


class Retry(Spec):
    retry: int = Field(ge=1, le=10, description="Additional attempts.")
    sampling: Fields = Field({}, description="Sampling fields of these attempts; the others stay the row's own.")

    @field_validator("sampling")
    @classmethod
    def _fields(cls, value: Fields) -> Fields:
        if fixed := next((name for name in ("n", "best_of") if name in value), None):
            raise ValueError(f"{fixed}: every sample is tried again by itself")
        checked = check_sampling(value)
        return {key: getattr(checked, key) for key in value}


Policy = Literal["keep", "fail"] | Retry
Failure = Literal[ErrorCode, "truncated"]
FINAL = {"input", "render", "too_long"}
