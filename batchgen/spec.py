"""Job file -> Job: validated, frozen, fingerprinted.

Unknown keys are errors everywhere except in `engine.options`, which is handed to the
engine under the engine's own names. Fields that change what a row means are part of the
fingerprint; the others (replicas, parallelism, engine options, span size, limits) are not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from batchgen import attributes as attrs
from batchgen.errors import JobError
from batchgen.jobfile import explain, override, read_yaml, unknown_key


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Column(Spec):
    """The value is taken from this input column, row by row."""

    column: str = Field(description="Name of an input column.")


class Input(Spec):
    path: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="File, directory, glob or list of them; local or s3:// gs:// az:// hf://datasets/; for `format: dataset` a Hub name or a saved directory."
    )
    format: Literal["auto", "jsonl", "parquet", "dataset"] = Field(
        "auto", description="Format of the shards; auto goes by the file name."
    )
    split: str = Field("train", description="Split of a dataset (`format: dataset`).")
    subset: str | None = Field(None, description="Configuration of a Hub dataset (`format: dataset`).")
    id: str | None = Field(None, description="Column carried as the row's name; data, never the key.")
    prompt: str | None = Field(None, description="Column with one user message.")
    messages: str | None = Field(
        None, description="Column with a conversation: a list of {role, content}, the last one from the user."
    )
    turns: str | None = Field(None, description="Column with a list of user messages, each answered in order.")
    system: str | Column | None = Field(None, description="System message: a constant or {column: NAME}.")
    keep: Literal["all"] | list[str] = Field("all", description="Input columns that the output carries.")
    max_row_bytes: int = Field(8 * 2**20, gt=0, description="A longer JSONL line is an error row.")

    @model_validator(mode="after")
    def _one_prompt(self) -> Input:
        named = [name for name in ("prompt", "messages", "turns") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(f"name exactly one of prompt, messages, turns (got {', '.join(named) or 'none'})")
        return self

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else list(self.path)


class LayoutSpec(Spec):
    template: str | None = Field(
        None, description="Jinja chat template that reads the values from the keys of each user message."
    )
    block: str | None = Field(None, description="Text beside user messages; {pairs} stands for the values.")
    pair: str = Field("{name}: {value}", description="One value in the block.")
    separator: str = Field(" ", description="Between two values in the block.")
    where: Literal["suffix", "prefix"] = Field("suffix", description="The block's side of the message text.")
    turns: Literal["all", "last"] = Field("all", description="Which user messages carry the block.")

    @model_validator(mode="after")
    def _one_form(self) -> LayoutSpec:
        if (self.template is None) == (self.block is None):
            raise ValueError("give exactly one of template and block")
        if self.block is not None and "{pairs}" not in self.block:
            raise ValueError("block must contain {pairs}")
        try:
            self.pair.format(name="", value="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"pair may have the fields {{name}} and {{value}} only ({error!r})") from None
        return self


MOST = 2**31 - 1
Range = Annotated[list[Annotated[int, Field(ge=-MOST, le=MOST)]], Field(min_length=2, max_length=2)]


class SchemaSpec(Spec):
    names: list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]] = Field(
        min_length=1, description="Attribute names, in the prompt's order."
    )
    range: Range | dict[str, Range] = Field([0, 4], description="[low, high], both included; for all or by name.")
    defaults: dict[str, int] = Field({}, description="Value of an attribute that nobody sets; else the low end.")
    layout: LayoutSpec | None = Field(None, description="The text form, for a model whose template does not read the values.")

    def build(self) -> attrs.Schema:
        for name in {"role", "content", "messages"} & set(self.names):
            raise ValueError(f"an attribute cannot be called {name}: chat templates mean something else by it")
        if len(set(self.names)) != len(self.names):
            raise ValueError("names has a name twice")
        for name in [*self.defaults, *(self.range if isinstance(self.range, dict) else ())]:
            if name not in self.names:
                raise ValueError(f"{name} is not among names")
        made = []
        for name in self.names:
            low, high = self.range.get(name, [0, 4]) if isinstance(self.range, dict) else self.range
            attribute = attrs.Attribute(name, low, high, self.defaults.get(name, low))
            attribute.check(attribute.default)
            made.append(attribute)
        layout = attrs.Layout(**self.layout.model_dump()) if self.layout else None
        return attrs.Schema("custom", tuple(made), layout)


class Attributes(Spec):
    schema_: str | SchemaSpec = Field(alias="schema", description="A built-in name (karakuri, steerlm) or a schema of your own.")
    values: dict[str, Any] = Field({}, description="Values for every row; a row's own column wins.")
    sweep: dict[str, list[Any]] = Field({}, description="Every row times every combination of these values.")
    columns: dict[str, str] | bool = Field(
        True, description="true: the columns that bear the names; a mapping renames them; false: none."
    )

    @model_validator(mode="after")
    def _check(self) -> Attributes:
        schema = self.schema
        schema.check(self.values)
        for name, values in self.sweep.items():
            if not values:
                raise ValueError(f"sweep.{name} is empty")
            for value in values:
                if value is None:
                    raise ValueError(f"sweep.{name}: null is not a value")
                schema.check({name: value})
            if len(set(values)) != len(values):
                raise ValueError(f"sweep.{name} names a value twice")
        if isinstance(self.columns, dict):
            schema.check(dict.fromkeys(self.columns))
        return self

    @property
    def schema(self) -> attrs.Schema:  # type: ignore[override]
        if not isinstance(self.schema_, str):
            return self.schema_.build()
        if self.schema_ not in attrs.BUILT_IN:
            raise ValueError(f"unknown schema {self.schema_!r}; built in are {', '.join(attrs.BUILT_IN)}")
        return attrs.BUILT_IN[self.schema_]

    @property
    def variants(self) -> list[dict[str, int]]:
        return [self.schema.check(point) for point in attrs.sweep(self.sweep)]

    def column_of(self) -> dict[str, str]:
        """Attribute name -> input column that may hold a row's own value."""
        if self.columns is False:
            return {}
        renamed = self.columns if isinstance(self.columns, dict) else {}
        return {name: renamed.get(name, name) for name in self.schema.names}


class Model(Spec):
    source: str = Field(description="A directory, or a Hugging Face Hub id.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub id; recorded as a commit.")
    chat_template: str | None = Field(
        None, description="Path of a Jinja chat template, or `none` for plain completion; default: the model's own."
    )
    trust_remote_code: bool = Field(False, description="Allowed only with `revision` set to a full commit hash.")

    @model_validator(mode="after")
    def _pinned(self) -> Model:
        if self.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError("trust_remote_code runs the model's own code: pin revision to a full commit hash")
        return self


class Engine(Spec):
    @model_validator(mode="after")
    def _context(self) -> Engine:
        length = self.options.get("max_model_len")
        if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 2):
            raise ValueError(f"options.max_model_len {length!r} is not a number of tokens, 2 or more")
        return self

    kind: Literal["vllm", "echo"] = Field("vllm", description="vllm: the model. echo: deterministic text without a model.")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that hold one layer of a replica together.")
    pipeline_parallel_size: int = Field(1, ge=1, description="Stages of layers of a replica.")
    options: dict[str, Any] = Field({}, description="Handed to the engine under its own names.")
    env: dict[str, str] = Field({}, description="Environment of the replicas (VLLM_..., NCCL_...); no place for secrets.")


Positive = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Sampling(Spec):
    """What one row runs with; the names and meanings are vLLM's SamplingParams."""

    model_config = ConfigDict(strict=True)

    n: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="Samples of the row.")
    temperature: Annotated[float, Field(ge=0)] = Field(1.0, description="0 is greedy.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Nucleus.")
    top_k: Annotated[int, Field(ge=-1, le=MOST)] = Field(0, description="0 or -1 is off.")
    min_p: Fraction = Field(0.0, description="Least probability, relative to the likeliest token's.")
    max_tokens: Positive | None = Field(None, description="Null: up to the end of the context.")
    min_tokens: Count = Field(0, description="No stop before so many tokens.")
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = Field(0.0, description="-2..2.")
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = Field(0.0, description="-2..2.")
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = Field(1.0, description="Over 0 up to 2; 1 is off.")
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        0,
        description="A job's constant is mixed with the row's name into a seed per row; a row's own is used as it is. Null: unseeded.",
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field([], description="Stop strings.")
    stop_token_ids: list[Count] = Field([], description="Stop tokens.")
    bad_words: list[Annotated[str, Field(min_length=1)]] = Field([], description="Strings never generated.")
    ignore_eos: bool = Field(False, description="Go on after the end-of-sequence token.")
    include_stop_str_in_output: bool = Field(False, description="Keep the stop string in the answer.")
    skip_special_tokens: bool = Field(True, description="Leave special tokens out of the answer.")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="0 or more fills cumulative_logprob.")

    @model_validator(mode="before")
    @classmethod
    def _integral(cls, fields: Any) -> Any:
        """Integral floats are integers: a Parquet column with nulls has no integers in pandas."""
        return {k: int(v) if k in _INTEGERS and isinstance(v, float) and v.is_integer() else v for k, v in fields.items()}

    @field_validator("stop", "bad_words", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _order(self) -> Sampling:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}")
        return self


_INTEGERS = {name for name, field in Sampling.model_fields.items() if "int" in str(field.annotation)}


def check_sampling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of Sampling, checked. Raises ValueError that names the fields at fault."""
    try:
        return Sampling.model_validate(fields).model_dump()
    except ValidationError as error:
        raise ValueError("; ".join(explain(error, Sampling))) from None


def _sampling_json_schema() -> dict[str, Any]:
    schema = Sampling.model_json_schema()
    column = Column.model_json_schema()
    for name, field in schema["properties"].items():
        schema["properties"][name] = {
            "anyOf": [field, column],
            "description": field["description"],
            "default": field["default"],
        }
    return schema


class Replicas(Spec):
    min: int = Field(1, ge=1, description="No fewer are asked for, even if the cluster holds fewer now.")
    max: int | None = Field(None, ge=1, description="At most so many; null: what the cluster's GPUs hold, at least min.")

    @model_validator(mode="after")
    def _order(self) -> Replicas:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is less than min {self.min}")
        return self


class Limits(Spec):
    errors: Fraction = Field(0.01, description="Failed rows allowed, as a fraction of the planned ones.")
    tokens: int | None = Field(None, ge=1, description="Stop, resumably, after so many completion tokens.")
    hours: float | None = Field(None, gt=0, description="Stop, resumably, after so many hours of this run.")


class Spans(Spec):
    rows: int | None = Field(
        None, ge=1, description="Most input rows of a span; null: chosen from the size of the input, fewer towards its end."
    )
    bytes: int = Field(16 * 2**20, ge=1, description="Most JSONL bytes of a span (one line may be longer).")


class OutputSpec(Spec):
    path: str = Field(description="Directory or object store URL.")


class Job(Spec):
    """A job: what to read, what to ask of which model, where the answers go.

    `Job.load(path)` reads a job file, `Job.parse(fields)` a mapping; both raise JobError.
    """

    name: str = Field("job", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Shown in progress and reports.")
    input: Input = Field(description="What to read.")
    attributes: Attributes | None = Field(None, description="Steering attributes.")
    model: Model | None = Field(None, description="Required except for engine.kind echo.")
    engine: Engine = Field(Engine(), description="What generates.")
    sampling: Annotated[dict[str, Any], WithJsonSchema(_sampling_json_schema())] = Field(
        {}, description="What every row runs with; any field may be {column: NAME}, and a row's own `sampling` wins."
    )
    replicas: Replicas = Field(Replicas(), description="How many engines.")
    limits: Limits = Field(Limits(), description="When to stop.")
    spans: Spans = Field(Spans(), description="The unit of scheduling and of commit.")
    output: OutputSpec = Field(description="Where the answers go.")

    @model_validator(mode="after")
    def _whole(self) -> Job:
        if self.model is None and self.engine.kind != "echo":
            raise ValueError(f"engine.kind {self.engine.kind} needs a model")
        return self

    @field_validator("sampling")
    @classmethod
    def _sampling_fields(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, entry in value.items():
            if key not in Sampling.model_fields:
                raise ValueError(unknown_key(key, Sampling.model_fields))
            if isinstance(entry, dict) and (list(entry) != ["column"] or not isinstance(entry["column"], str)):
                raise ValueError(f"{key}: expected a value or {{column: NAME}}")
        check_sampling({key: entry for key, entry in value.items() if not isinstance(entry, dict)})
        return value

    @property
    def constant_sampling(self) -> dict[str, Any]:
        return {key: entry for key, entry in self.sampling.items() if not isinstance(entry, dict)}

    @property
    def sampling_columns(self) -> dict[str, str]:
        return {key: entry["column"] for key, entry in self.sampling.items() if isinstance(entry, dict)}

    @property
    def schema_names(self) -> tuple[str, ...]:
        return self.attributes.schema.names if self.attributes else ()

    @property
    def variants(self) -> list[dict[str, int]]:
        return self.attributes.variants if self.attributes else [{}]

    @property
    def samples(self) -> int:
        """Samples of a row that does not say how many it wants."""
        return int(self.constant_sampling.get("n", 1))

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Job:
        """Read a YAML job file and apply `key.path=value` overrides. Raises JobError."""
        fields = read_yaml(path)
        for text in overrides:
            override(fields, text)
        return cls.parse(fields, f"job file {path}")

    @classmethod
    def parse(cls, fields: Mapping[str, Any], origin: str = "job") -> Job:
        """Validate a mapping of fields. Raises JobError with one line per mistake."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise JobError("\n".join(f"{origin}: {line}" for line in explain(error, cls))) from None

    def meaning(self) -> dict[str, Any]:
        """The fields that decide what a row means, flat, without the model's files (see model.py)."""
        kept = {
            "input": {"max_row_bytes", "path"},
            "engine": {"tensor_parallel_size", "pipeline_parallel_size", "options", "env"},
        }
        whole = self.model_dump(
            mode="json",
            by_alias=True,
            include={"input", "attributes", "engine"},
            exclude=kept,
        )
        whole["sampling"] = {
            **check_sampling(self.constant_sampling),
            **{k: {"column": c} for k, c in self.sampling_columns.items()},
        }
        if self.attributes is not None:
            schema = self.attributes.schema
            checks = {attribute.name: attribute.check for attribute in schema.attributes}
            whole["attributes"]["values"] = schema.check(self.attributes.values)
            whole["attributes"]["sweep"] = {k: [checks[k](v) for v in points] for k, points in self.attributes.sweep.items()}
        if isinstance(whole["input"]["keep"], list):
            whole["input"]["keep"] = sorted(whole["input"]["keep"])
        return flatten(whole)


def fingerprint(meaning: Mapping[str, Any]) -> str:
    """sha256 of the meaning's canonical JSON, in hex."""
    return hashlib.sha256(orjson.dumps(meaning, option=orjson.OPT_SORT_KEYS)).hexdigest()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping of dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat.update(flatten(entry, f"{prefix}.{key}" if prefix else str(key)))
    return flat
