"""The engine of a job: its kind, parallel sizes and options. Only the kind changes a row."""

from typing import Self

from pydantic import Field, ValidationError, model_validator

from batchgen.job.fields import Options, Place, Spec

_SIZES = ("gpus", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "expert_parallel")


class Engine(Spec):
    kind: str = Field(
        "vllm",
        examples=["vllm", "openai", "echo"],
        description="vllm: load the model with vLLM. openai: call an OpenAI-compatible endpoint. echo: deterministic text without a model. Other packages may add kinds.",
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share each layer of a replica, on one node.")
    pipeline_parallel_size: int = Field(1, ge=1, description="Pipeline stages of a replica: on one node where one has room.")
    data_parallel_size: int = Field(1, ge=1, description="Copies of the model inside a replica, for expert parallelism.")
    expert_parallel: bool = Field(False, description="Spread the experts of each layer over tensor x data parallel ranks.")
    gpus: float | None = Field(
        None,
        gt=0,
        description="GPUs of each rank: a fraction for a small model, or a whole number. Default: 1 for an engine on GPUs; others reserve none, unless a number is given (a rehearsal).",
    )
    options: Options = Field({}, description="Options of the engine, under the engine's own names.")
    watchdog_seconds: float = Field(300.0, gt=0, description="Restart an engine that has not responded for this many seconds.")
    env: dict[str, Place] = Field({}, description="Environment of the replicas (VLLM_..., NCCL_...). No secrets: it is recorded.")

    @property
    def ranks(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus is not None and self.gpus != int(self.gpus) and (self.gpus > 1 or self.ranks > 1):
            raise ValueError(
                f"gpus {self.gpus:g}: expected a whole number, or with one rank (here {self.ranks}) a fraction of one GPU"
            )
        return self


class GroupEngine(Spec):
    """What is not set is the job's `engine`."""

    tensor_parallel_size: int | None = Field(None, ge=1, description="In place of engine.tensor_parallel_size.")
    pipeline_parallel_size: int | None = Field(None, ge=1, description="In place of engine.pipeline_parallel_size.")
    data_parallel_size: int | None = Field(None, ge=1, description="In place of engine.data_parallel_size.")
    expert_parallel: bool | None = Field(None, description="In place of engine.expert_parallel.")
    gpus: float | None = Field(None, gt=0, description="In place of engine.gpus.")
    options: Options = Field({}, description="Options that win over those of engine.options.")

    def over(self, engine: Engine) -> Engine:
        """The engine with these fields. Raises ValueError when they do not go together."""
        sizes = {name: value for name in _SIZES if (value := getattr(self, name)) is not None}
        try:
            return Engine.model_validate({**dict(engine), **sizes, "options": engine.options | self.options})
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
