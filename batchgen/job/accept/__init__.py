"""The field `accept` of a job: what an answer must be like."""

from typing import Annotated, Self

import regex
from pydantic import Field, WithJsonSchema, field_validator, model_validator

from batchgen.job.fields import Fields, Spec, short
from batchgen.job.input import Function
from batchgen.job.model import Model
from batchgen.job.replicas.engine import Engine
from batchgen.job.sampling import canonical, check_sampling
from batchgen.jsontext import dumps, loads

_JSON_SCHEMA: Fields = {"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}
JsonSchema = Annotated[str | None, WithJsonSchema(_JSON_SCHEMA)]
"""A JSON Schema, kept as its JSON text with the keys in order."""


class Fit(Spec):
    """What a text must be like."""

    regex: str | None = None
    schema_: JsonSchema = None

    @field_validator("regex")
    @classmethod
    def _regex(cls, value: str | None) -> str | None:
        try:
            regex.compile(value or "")
        except regex.error as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("schema_", mode="before")
    @classmethod
    def _schema(cls, value: object) -> object:
        if isinstance(value, str):
            value = loads(value)
        if value is not None and not isinstance(value, dict):
            raise ValueError("expected a JSON Schema, a mapping")
        return None if value is None else canonical(dumps(value))


class Judge(Fit):
    model: Annotated[Model | None, short("model", Model | str | None)] = Field(
        None, description="The judge's own model. Default: the job's. A text is its `source`."
    )
    engine: Engine | None = Field(
        None,
        description="The judge's own engine, in the replica beside the job's. Default: the job's engine, for a model of the judge's own a second one like it.",
    )
    template: str = Field(
        description="Jinja template of the message to the judge. Its variables: the columns of the row, response, parsed, finish_reason, messages, id."
    )
    regex: str | None = Field(
        None,
        description="The answer is accepted where this regex matches somewhere in the judge's, which is stripped of white space.",
    )
    schema_: JsonSchema = Field(
        None, alias="schema", description="The answer is accepted where the judge's JSON satisfies this JSON Schema."
    )
    sampling: Fields = Field({}, description="Sampling of the judge. temperature is 0 unless given; it answers once.")

    @property
    def is_another(self) -> bool:
        """Whether the judge is not the job's own engine."""
        return self.model is not None or self.engine is not None

    @field_validator("sampling")
    @classmethod
    def _sampling(cls, value: Fields) -> Fields:
        if fixed := next((name for name in ("n", "best_of", "prompt_logprobs") if name in value), None):
            raise ValueError(f"{fixed}: a judge answers once")
        checked = check_sampling(value)
        return {key: getattr(checked, key) for key in value}

    @model_validator(mode="after")
    def _tells(self) -> Self:
        if (self.regex is None) == (self.schema_ is None):
            raise ValueError("give a regex or a schema of the judge's answer: one of them says what accepts")
        return self


class Accept(Fit):
    regex: str | None = Field(None, description="Regex that must match somewhere in the answer.")
    schema_: JsonSchema = Field(
        None, alias="schema", description="JSON Schema that the answer, or the JSON in its code block, must satisfy."
    )
    sql: str | None = Field(
        None,
        min_length=1,
        description="Boolean SQL expression (DuckDB) over the columns of the output row: length(response) > 20 and parsed.score >= 3.",
    )
    function: Function | None = Field(
        None,
        description="Your own Python function, module:function, of the row with its answer: True accepts; False, or a text that says why, does not.",
    )
    judge: Judge | None = Field(
        None, description="A second request, to the same engine or to the judge's own, whose answer decides."
    )

    @model_validator(mode="after")
    def _any(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError(
                f"give at least one of {', '.join(field.alias or name for name, field in Accept.model_fields.items())}"
            )
        return self

    @property
    def reads_rows(self) -> bool:
        """Whether a rule reads more than the answer."""
        return any(rule is not None for rule in (self.sql, self.function, self.judge))
