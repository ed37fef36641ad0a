"""What one row runs with: the fields of `sampling`, in a job and in a row.

The names, meanings and ranges are vLLM's SamplingParams."""

import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Self, get_args, get_origin

import orjson
import pyarrow as pa
from pydantic import ConfigDict, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from batchgen.job.fields import MOST, Column, Fields, Fraction, Spec, explain
from batchgen.job.request.tools import CHOICE, TOOLS, VARIABLES, choice_text, from_json, tools_text, variables_text, without_nulls
from batchgen.jsontext import dumps, loads

_KINDS = {"json": {"type": ["object", "string"]}, "regex": {"type": "string"}, "grammar": {"type": "string"}}
_CHOICE = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_ONE = {"minProperties": 1, "maxProperties": 1, "additionalProperties": False}
_CONSTRAINT: Fields = {
    "anyOf": [{"type": "object", "properties": {**_KINDS, "choice": _CHOICE}, **_ONE}, {"type": "string"}, {"type": "null"}]
}
MOST_CONSTRAINT = 2**18  # an engine compiles it, in time that grows with it
_BIASES = {"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}}
_BIAS: Fields = {"anyOf": [{**_BIASES, "propertyNames": {"pattern": "^[0-9]+$"}}, {"type": "string"}, {"type": "null"}]}
MOST_BIASES = 1024
MAPPINGS = ("structured_outputs", "logit_bias", "chat_template_kwargs", "tools", "tool_choice")
"""Fields that a job and a row give as a mapping or a list. They are kept as its JSON text: no Arrow type has every mapping."""
EFFORTS = "^(none|minimal|low|medium|high|xhigh|max)$"
_ID = re.compile("0|[1-9][0-9]{0,9}")
_LISTS = ("stop", "bad_words")  # fields that take a lone string for a list of one


class Sampling(Spec):
    model_config = ConfigDict(strict=True)

    n: int = Field(1, ge=1, le=1024, description="Answers per prompt.")
    best_of: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="Generate this many candidates (>= n) and keep the n most likely, best first. Tokens of discarded candidates are not counted. Sets logprobs to 0 where it is null. null: off.",
    )
    temperature: float = Field(1.0, ge=0, description="Softmax temperature. 0: greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the likeliest tokens with this sum of probabilities. 1: off.")
    top_k: int = Field(0, ge=-1, le=MOST, description="Sample from this many most likely tokens. 0 or -1: off.")
    min_p: Fraction = Field(0.0, description="Minimum probability of a token, relative to the most likely one. 0: off.")
    max_tokens: int | None = Field(None, ge=1, le=MOST, description="Maximum tokens of an answer. null: to the context's end.")
    min_tokens: int = Field(0, ge=0, le=MOST, description="Minimum tokens of an answer before it may stop.")
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Penalty for tokens already in the answer, -2 to 2. 0: off.")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="Penalty per occurrence in the answer, -2 to 2. 0: off.")
    repetition_penalty: float = Field(1.0, gt=0, le=2, description="Factor against tokens in prompt or answer, up to 2. 1: off.")
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        0, description="Random seed; the job's is combined with the row's name, a row's own is used unchanged. null: unseeded."
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field([], description="Strings that end the answer.")
    stop_token_ids: list[Annotated[int, Field(ge=0, le=MOST)]] = Field([], description="Token ids that end the answer.")
    bad_words: list[Annotated[str, Field(min_length=1)]] = Field([], description="Strings that are never generated.")
    ignore_eos: bool = Field(False, description="Continue after the end-of-sequence token.")
    include_stop_str_in_output: bool = Field(False, description="Keep the stop string in the answer.")
    skip_special_tokens: bool = Field(True, description="Omit special tokens from the answer.")
    adapter: str | None = Field(None, description="LoRA adapter, by its name in model.adapters. null: the base model.")
    structured_outputs: Annotated[str | None, WithJsonSchema(_CONSTRAINT)] = Field(
        None, description="Constraint on the answer, one of {json: SCHEMA}, {regex: TEXT}, {choice: [TEXT]}, {grammar: TEXT}."
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="Fill cumulative_logprob; list this many likeliest alternatives a token in token_logprobs. null: off."
    )
    logit_bias: Annotated[str | None, WithJsonSchema(_BIAS)] = Field(
        None, description="Added to the logits of tokens: {TOKEN_ID: BIAS}, each -100 to 100, at most 1024. null: off."
    )
    thinking_token_budget: Annotated[int, Field(ge=0, le=MOST)] | None = Field(
        None, description="Maximum tokens of the reasoning before an answer (model.reasoning_parser). null: no limit of its own."
    )
    reasoning_effort: Annotated[str, Field(pattern=EFFORTS)] | None = Field(
        None, description="How hard to think: none, minimal, low, medium, high, xhigh or max, a variable of the chat template."
    )
    chat_template_kwargs: Annotated[str | None, WithJsonSchema(VARIABLES)] = Field(
        None, description="Variables for the chat template, beside those of model.chat_template_kwargs: {enable_thinking: false}."
    )
    tools: Annotated[str | None, WithJsonSchema(TOOLS)] = Field(
        None,
        description="Functions that the model may call, as in OpenAI's requests: a list of {type: function, function: {name, description, parameters}}.",
    )
    tool_choice: Annotated[str | None, WithJsonSchema(CHOICE)] = Field(
        None, description="auto (default), none, required, or {type: function, function: {name}}: the one to call."
    )
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call in an answer.")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, fields: Fields) -> Fields:
        """Integral floats as integers, since a Parquet column with nulls has no integers in pandas; and log-probabilities for
        best_of, which compares them."""
        plain = {k: int(v) if k in _INTEGERS and isinstance(v, float) and v.is_integer() else v for k, v in fields.items()}
        if plain.get("best_of") is not None and plain.get("logprobs") is None:
            plain["logprobs"] = 0
        return plain

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("structured_outputs", mode="before")
    @classmethod
    def _constraint(cls, value: object) -> object:
        """A mapping, or its JSON text, as JSON text with its keys in the order given, without the nulls of a Parquet struct."""
        value = from_json(value)
        if not isinstance(value, dict):
            return value
        given = {key: entry for key, entry in value.items() if entry is not None}
        [kind] = given if len(given) == 1 else [""]
        of_kind = {"json": dict | str, "regex": str, "choice": list, "grammar": str}.get(kind)
        if of_kind is None or not isinstance(given[kind], of_kind) or not given[kind]:
            raise ValueError("expected exactly one of json (a schema), regex, choice (a list of texts), grammar")
        if kind == "choice" and not all(isinstance(text, str) for text in given[kind]):
            raise ValueError("choice: expected a list of texts")
        if kind == "json" and isinstance(given[kind], str):
            try:
                given[kind] = from_json(given[kind])
            except ValueError as error:
                raise ValueError(f"json: {error}") from None
        elif kind == "json":
            given[kind] = without_nulls(given[kind])
        if len(text := dumps(given, compact=True)) > MOST_CONSTRAINT:
            raise ValueError(f"more than {MOST_CONSTRAINT} characters")
        return text

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _bias(cls, value: object) -> object:
        return bias_text(value)

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _variables(cls, value: object) -> object:
        return variables_text(value)

    @field_validator("tools", mode="before")
    @classmethod
    def _tools(cls, value: object) -> object:
        return tools_text(value)

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _choice(cls, value: object) -> object:
        return choice_text(value)

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}")
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(f"best_of {self.best_of} is less than n {self.n}")
        return self


def bias_text(value: object) -> str | None:
    """Biases by token id, or their JSON text, as JSON text in the order of the ids; None where there are none. A struct of a
    Parquet file has nulls for the ids of other rows. Raises ValueError that shows the value at fault."""
    given = {} if value is None else from_json(value)
    if not isinstance(given, dict):
        raise ValueError(f"{reprlib.repr(given)} is no mapping of token ids to biases")
    given = {key: bias for key, bias in given.items() if bias is not None}
    for key, bias in given.items():
        if not _ID.fullmatch(str(key)) or int(key) > MOST:
            raise ValueError(f"{reprlib.repr(key)} is not a token id 0..{MOST}")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise ValueError(f"{reprlib.repr(bias)} (token {key}) is not a number -100..100")
    if len(given) > MOST_BIASES:
        raise ValueError(f"{len(given)} tokens are more than {MOST_BIASES}")
    return dumps({str(key): float(given[key]) for key in sorted(given, key=int)}, compact=True) if given else None


def canonical(constraint: str) -> str:
    """A constraint's JSON text with its keys in order, as the meaning of a job has it: the order of keys is no other meaning."""
    value = loads(constraint)
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # an integer of more than 64 bits
        return dumps(value, sort_keys=True, compact=True)


_INTEGERS = {name for name, field in Sampling.model_fields.items() if "int" in str(field.annotation)}


def _arrow_type(annotation: object) -> pa.DataType:
    """The Arrow type of a field; what may be null has the type of the rest."""
    if get_origin(annotation) is list:
        return pa.list_(_arrow_type(get_args(annotation)[0]))
    if isinstance(annotation, type):
        return {bool: pa.bool_(), int: pa.int32(), float: pa.float64(), str: pa.string()}[annotation]
    return _arrow_type(get_args(annotation)[0])


SAMPLING_TYPE = pa.struct(
    [(name, pa.int64() if name == "seed" else _arrow_type(field.annotation)) for name, field in Sampling.model_fields.items()]
)
"""The output's column `sampling`."""


def check_sampling(fields: Mapping[str, object]) -> Sampling:
    """The sampling with these fields and the defaults of the others. Raises ValueError that names the fields at fault."""
    try:
        return Sampling.model_validate(fields)
    except ValidationError as error:
        raise ValueError("; ".join(explain(error, Sampling))) from None


def sampling_json_schema() -> Fields:
    schema = Sampling.model_json_schema()
    for name, field in schema["properties"].items():
        schema["properties"][name] = {
            "anyOf": [field, Column.model_json_schema(), *([{"type": "string", "minLength": 1}] if name in _LISTS else [])],
            "description": field["description"],
            "default": field["default"],
        }
    return schema
