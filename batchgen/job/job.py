"""Job file -> Job: validated, frozen, fingerprinted.

Unknown keys are errors everywhere except in `engine.options`, whose names are the engine's own (engines/base.py checks them).
Fields that change what a row means are part of the fingerprint; others (replicas, engine options, span size, limits) are not."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import pyarrow as pa
from pydantic import AwareDatetime, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from batchgen.errors import JobError
from batchgen.job.accept import Accept
from batchgen.job.attributes import Attributes, with_prediction
from batchgen.job.fields import Fields, Fraction, Place, Spec, explain, override, read_yaml, short, unknown_key
from batchgen.job.input import Input, Parse
from batchgen.job.meaning import RETIRED, defaults_of, fingerprint, flatten
from batchgen.job.model import Model
from batchgen.job.policy import FINAL, Failure, Policy, Retry
from batchgen.job.pooling import POOLED, Pooling, task_mistake
from batchgen.job.replicas import Pool, Replicas
from batchgen.job.replicas.engine import Engine
from batchgen.job.sampling import MAPPINGS, Sampling, canonical, check_sampling, sampling_json_schema


class Limits(Spec):
    errors: Fraction = Field(0.01, description="Failed rows allowed, as a fraction of the planned rows.")
    tokens: int | None = Field(None, ge=1, description="Stop after this many completion tokens; resumable.")
    hours: float | None = Field(None, gt=0, description="Stop after this many hours of one run; resumable.")
    deadline: AwareDatetime | None = Field(None, description="Stop at this time, 2026-12-01T06:00+09:00; resumable.")
    row_seconds: float | None = Field(
        4 * 3600.0, gt=0, description="Seconds a row may spend in the engine, queueing included, before it is a `timeout` row."
    )


class Spans(Spec):
    rows: int | None = Field(None, ge=1, description="Maximum input rows of a span. Default: by input size, fewer at its end.")
    bytes: int = Field(
        16 * 2**20,
        ge=1,
        description="Maximum bytes of JSONL of a span, fewer where a row makes many prompts or samples; one line may exceed it.",
    )
    journal_seconds: float = Field(30.0, gt=0, description="Seconds between journals of the finished rows of unfinished spans.")


class OutputSpec(Spec):
    path: Place = Field(description="Output directory or object store URL.")
    token_logprobs: bool = Field(
        False,
        description="Add the column `token_logprobs`: tokens of the answer (with several turns, of the last one), their log-probabilities, and the `sampling.logprobs` most likely alternatives.",
    )


_OF_FILES = {"source", "revision", "chat_template", "adapters", "trust_remote_code"}
"""Fields of a model that say where its files are; what is in them is in its version."""


class Job(Spec):
    """What to read, what to ask of which model, where the answers go. `load` reads a job file, `parse` a mapping of fields."""

    name: str = Field("job", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Name shown in progress and reports.")
    input: Annotated[Input, short("input", Input | str | list[str])] = Field(
        description="Rows to read. `input: FILE` is short for `input: {path: FILE}`."
    )
    attributes: Attributes | None = Field(None, description="Steering attributes.")
    model: Annotated[Model | None, short("model", Model | str | None)] = Field(
        None, description="Model to load or call. Required, except with `engine.kind: echo`. A text is its `source`."
    )
    engine: Engine = Field(Engine(), description="Engine that generates the answers.")
    task: str = Field(
        "generate", description="The task: generate, embed, classify, score, rerank, reward, or one that a package adds."
    )
    pooling: Pooling = Field(Pooling(), description="Numbers that embed, classify, score, rerank and reward read from a model.")
    sampling: Annotated[Fields, WithJsonSchema(sampling_json_schema())] = Field(
        {}, description="Sampling of every row. Any field may be {column: NAME}; fields of a row's own `sampling` win."
    )
    parse_: Parse | None = Field(None, alias="parse", description="Typed columns read from the answer, in the output's `parsed`.")
    accept: Accept | None = Field(
        None, description="Rules that every answer must keep, or its row is a `rejected` row. All given must hold."
    )
    dedupe: bool = Field(
        False,
        description="Generate the answer to equal prompts with equal sampling once in a run, at temperature 0 or with a seed that the job or the rows give. A seed of the job is then that of every row.",
    )
    replicas: Pool = Field(Replicas(), description="Replicas, each with one engine: how many and where; or a list of groups.")
    limits: Limits = Field(Limits(), description="When to stop early.")
    errors: dict[Failure, Policy] = Field(
        {},
        description="Policy by error_code, or `truncated` (cut at max_tokens). keep (default): keep the error row. fail: stop the job. {retry: TIMES, sampling: {...}}: generate again.",
    )
    spans: Spans = Field(Spans(), description="Spans: the unit of scheduling and of commit.")
    output: Annotated[OutputSpec, short("output", OutputSpec | str)] = Field(
        description="Where the output goes. A text is its `path`."
    )

    @model_validator(mode="before")
    @classmethod
    def _prediction(cls, fields: object) -> object:
        return with_prediction(fields) if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if wrong := task_mistake(self):
            raise ValueError(wrong)
        adapter = self.constant_sampling.get("adapter")
        if adapter is not None and adapter not in self.adapters:
            raise ValueError(f"sampling.adapter: {unknown_adapter(adapter, self.adapters)}")
        for number, group in enumerate(self.replicas.groups):
            try:
                group.engine.over(self.engine)
            except ValueError as error:
                raise ValueError(f"replicas.groups.{number}.engine: {error}") from None
        scored = "logprobs" in self.sampling_columns or check_sampling(self.constant_sampling).logprobs is not None
        scored = scored or self.input.format == "openai-batch"  # whose requests ask for them one by one
        if self.output.token_logprobs and not scored:
            raise ValueError("output.token_logprobs: set sampling.logprobs, to 0 or to how many alternatives each token has")
        return self

    @field_validator("errors")
    @classmethod
    def _retries(cls, value: dict[str, Policy]) -> dict[str, Policy]:
        for code in FINAL & value.keys():
            if isinstance(value[code], Retry):
                raise ValueError(f"{code}: nothing changes in another attempt: keep or fail")
        return value

    @field_validator("sampling")
    @classmethod
    def _sampling_fields(cls, value: Fields) -> Fields:
        for key, entry in value.items():
            if key not in Sampling.model_fields:
                raise ValueError(unknown_key(key, Sampling.model_fields))
            if isinstance(entry, dict) and not _is_column(entry) and key not in MAPPINGS:
                raise ValueError(f"{key}: expected a value or {{column: NAME}}")
        check_sampling({key: entry for key, entry in value.items() if not _is_column(entry)})
        return value

    @property
    def constant_sampling(self) -> Fields:
        return {key: entry for key, entry in self.sampling.items() if not _is_column(entry)}

    @property
    def judge(self) -> Self | None:
        """The job that a judge with an engine of its own has: nothing but prompts that are made already. None: there is no such
        judge."""
        spec = self.accept.judge if self.accept is not None else None
        if spec is None or not spec.is_another:
            return None
        left_out = ("attributes", "parse_", "accept", "dedupe", "sampling", "errors", "pooling")
        bare = {name: type(self).model_fields[name].get_default(call_default_factory=True) for name in left_out}
        own = {"model": spec.model or self.model, "engine": spec.engine or self.engine, "task": "generate"}
        read = Input.model_validate({"path": "-", "prompt": "prompt"})
        output = self.output.model_copy(update={"token_logprobs": False})
        return self.model_copy(update={**bare, **own, "input": read, "output": output})

    @property
    def seeds_alike(self) -> bool:
        """Whether rows have the job's seed as it is: with seeds of their own no two would be equal, which `dedupe` asks for."""
        return self.dedupe and self.constant_sampling.get("seed") is not None

    @property
    def columns(self) -> set[str]:
        """The input columns that rendering reads, beside those of the row's layout."""
        attributes = self.attributes.column_of().values() if self.attributes else ()
        named = {self.input.id, self.input.documents, "sampling", *self.sampling_columns.values(), *attributes}
        return {name for name in named if name}

    @property
    def sampling_columns(self) -> dict[str, str]:
        return {key: entry["column"] for key, entry in self.sampling.items() if _is_column(entry)}

    @property
    def keeps_reasoning(self) -> bool:
        """Whether the output tells the reasoning from the answers."""
        return self.task == "generate" and self.model is not None and self.model.reasoning_parser is not None

    @property
    def calls_tools(self) -> bool:
        """Whether answers may call tools."""
        parses = self.model is not None and self.model.tool_call_parser is not None
        return self.task == "generate" and (parses or "tools" in self.sampling)

    @property
    def judges_rows(self) -> bool:
        """Whether what is made of an answer (parse, accept) reads its row's columns too."""
        return bool((self.parse_ and self.parse_.after) or (self.accept and self.accept.reads_rows))

    @property
    def pools(self) -> bool:
        """Whether the task reads numbers from the model, and generates nothing."""
        return self.task in POOLED

    @property
    def adapters(self) -> dict[str, str]:
        return self.model.adapters if self.model else {}

    @property
    def groups(self) -> tuple[Self, ...]:
        """The job as each group of `replicas` runs it: with its engine, and without groups."""
        if not (groups := self.replicas.groups):
            return (self,)
        fields = [{"engine": group.engine.over(self.engine), "replicas": group.alone(self.replicas)} for group in groups]
        return tuple(self.model_copy(update=each) for each in fields)

    @property
    def schema_names(self) -> tuple[str, ...]:
        return self.attributes.names if self.attributes else ()

    @property
    def parsed_type(self) -> pa.DataType | None:
        """The Arrow type of the output's `parsed` column; None without a parse."""
        return self.parse_.type if self.parse_ else None

    @property
    def variants(self) -> int:
        """How many prompts a row makes."""
        return self.attributes.variants if self.attributes else 1

    @property
    def samples(self) -> int:
        """Samples of a row that does not say how many it wants."""
        return int(self.constant_sampling.get("n", 1))

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Self:
        """Read a YAML job file and apply `key.path=value` overrides. Raises JobError."""
        fields = read_yaml(path)
        for text in overrides:
            override(fields, text)
        return cls.parse(fields, f"job file {path}")

    @classmethod
    def parse(cls, fields: Mapping[str, Any], origin: str = "job") -> Self:
        """Validate a mapping of fields. Raises JobError with one line per mistake."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise JobError("\n".join(f"{origin}: {line}" for line in explain(error, cls))) from None

    def meaning(self) -> dict[str, object]:
        """The fields that decide what a row means, flat, without the model's files (output/job_file.py adds them)."""
        whole = self.model_dump(
            mode="json",
            by_alias=True,
            exclude={
                **dict.fromkeys(("name", "sampling", "dedupe", "replicas", "limits", "errors", "spans"), True),
                "model": _OF_FILES,
                "input": {"max_row_bytes", "path", "tables"},
                "engine": Engine.model_fields.keys() - {"kind"},
                "output": {"path"},
                "accept": {"judge": {"model": _OF_FILES, "engine": Engine.model_fields.keys() - {"kind"}}},
            },
        )
        columns = {key: {"column": column} for key, column in self.sampling_columns.items()}
        whole["sampling"] = dict(check_sampling(self.constant_sampling)) | columns
        if isinstance(constraint := whole["sampling"]["structured_outputs"], str):
            whole["sampling"]["structured_outputs"] = canonical(constraint)
        if (attributes := self.attributes) is not None:
            whole["attributes"]["values"] = attributes.schema.check(attributes.values)
            if isinstance(attributes.sweep, dict):
                whole["attributes"]["sweep"] = {name: [int(v) for v in values] for name, values in attributes.sweep.items()}
            if attributes.sample is not None:
                whole["attributes"]["sample"]["from"] = fingerprint({"from": attributes.sample.from_})
        if whole["input"]["layout"] is None:  # outputs older than the field have none
            del whole["input"]["layout"]
        if self.seeds_alike:
            whole["dedupe"] = True
        whole["input"]["image_hosts"] = sorted(set(whole["input"]["image_hosts"]))
        if isinstance(whole["input"]["keep"], list):
            whole["input"]["keep"] = sorted(whole["input"]["keep"])
        return flatten(whole)


def unknown_adapter(name: str, adapters: Mapping[str, str]) -> str:
    return f"no {name!r} in model.adapters (it has {', '.join(adapters) or 'none'})"


@functools.cache
def defaults() -> dict[str, object]:
    """What a field of a meaning stands for where it is missing, by dotted key."""
    return defaults_of(Job) | defaults_of(Sampling, "sampling.") | RETIRED


def _is_column(entry: object) -> bool:
    return isinstance(entry, dict) and list(entry) == ["column"] and isinstance(entry["column"], str)
