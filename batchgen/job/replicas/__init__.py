"""The replicas of a job: what each reserves, how many there are. None of it changes a row.

`replicas` is a mapping, or a list of groups for several kinds of GPU, each with an engine of its own sizes and options. Job.groups
gives the job as each group runs it."""

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from batchgen.job.fields import Spec
from batchgen.job.replicas.engine import GroupEngine

Amounts = dict[str, Annotated[float, Field(gt=0)]]


class Reserved(Spec):
    """How many replicas, and what each needs of its nodes beside the engine's GPUs."""

    min: int = Field(1, ge=0, description="Minimum replicas to request, even if the cluster holds fewer now.")
    max: int | None = Field(None, ge=1, description="Maximum replicas. Default: what the cluster holds, at least `min`.")
    accelerator: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="Kind of GPU, by Ray's name of it (H200, A100-80G): a node must have that kind."
    )
    labels: dict[str, str] = Field({}, description="Ray labels that a node must have: a value, !value, in(a, b) or !in(a, b).")
    resources: Amounts = Field(
        {}, description="More that a replica reserves on each of its nodes, by Ray's names: CPU, memory, custom ones."
    )

    @field_validator("resources")
    @classmethod
    def _no_gpus(cls, value: Amounts) -> Amounts:
        if "GPU" in value:
            raise ValueError("GPU: engine.gpus and the engine's parallel sizes set it")
        return value

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is less than min {self.min}")
        return self


class Group(Reserved):
    engine: GroupEngine = Field(GroupEngine(), description="Sizes and options of this group's engine.")

    def alone(self, replicas: "Replicas") -> "Replicas":
        """The `replicas` of a job that has this group only."""
        return replicas.model_copy(update={"groups": [], **{name: getattr(self, name) for name in Reserved.model_fields}})


class Replicas(Reserved):
    min: int = Field(1, ge=1, description="Minimum replicas to request, even if the cluster holds fewer now.")
    env_from: list[str] = Field(
        [],
        description="Names of environment variables of the driver that replicas and the tasks that read get, too. Their values are not recorded.",
    )
    start_seconds: float = Field(
        3600.0,
        gt=0,
        description="Seconds a replica may take to start on its node, a download of the model included. A start that takes longer has failed.",
    )
    share: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Weight of this job where jobs of one priority want more of a Ray cluster than there is: they divide it by their shares.",
    )
    priority: int = Field(
        0,
        description="Jobs of a higher priority get what they want first; a lower one keeps `min`. It yields by ending replicas once they have finished the spans that they run.",
    )
    groups: list[Group] = Field(
        [],
        description="Groups of replicas, for several kinds of GPU. `replicas: [...]` is short for `replicas: {groups: [...]}`.",
    )

    @field_validator("env_from")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        if wrong := next((name for name in value if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)), None):
            raise ValueError(f"{wrong.partition('=')[0]!r} is no name of a variable")  # what follows `=` may be a secret
        return value

    @model_validator(mode="after")
    def _in_groups(self) -> Self:
        if self.groups:
            fields = Reserved.model_fields
            if said := next((name for name in fields if getattr(self, name) != fields[name].get_default()), None):
                raise ValueError(f"{said}: with groups, each group has its own")
            if not any(group.min for group in self.groups):
                raise ValueError("groups: every min is 0; one group must have a replica")
        return self

    @property
    def most(self) -> int | None:
        """`max`, of all groups together; None without a limit."""
        limits = [group.max for group in self.groups or (self,)]
        return None if None in limits else sum(limit or 0 for limit in limits)


def _listed(value: object) -> object:
    if value == []:
        raise ValueError("a list of groups has one group or more")
    return {"groups": value} if isinstance(value, list) else value


Pool = Annotated[Replicas, BeforeValidator(_listed, json_schema_input_type=Replicas | list[Group])]
