"""The fields `input` and `parse` of a job: which shards, what of a row makes its prompt, and what is read from an answer."""

import re
from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from batchgen.job.fields import Column, Place, Spec
from batchgen.job.hosts import host_pattern

_PROMPTS = ("prompt", "messages", "turns", "template")
Kind = Literal["string", "integer", "number", "boolean", "json"]
"""JSON Schema's names of types, and json, any value as its text."""
_TYPES: dict[Kind, pa.DataType] = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}


class Input(Spec):
    path: Place | Annotated[list[Place], Field(min_length=1)] = Field(
        description="File, directory, glob, or a list of them: local, s3://, gs://, az:// or hf://datasets/. The output of another job: its ok rows. With `format: dataset`: a Hub name or a saved directory."
    )
    format: str = Field(
        "auto",
        description="Format of the files: jsonl, parquet, dataset, openai-batch (OpenAI batch files: custom_id, body), output (of another job), or one that a package adds. auto: by file name.",
    )
    layout: str | None = Field(None, description="Row layout of the named column, in place of the field's own: a package's.")
    split: str = Field("train", description="Split of the dataset (`format: dataset`).")
    subset: str | None = Field(None, description="Configuration of a Hub dataset (`format: dataset`).")
    id: str | None = Field(None, description="Column with the row's name, for the output; shard and row number identify a row.")
    prompt: str | None = Field(None, description="Column with one user message.")
    messages: str | None = Field(None, description="Column with a conversation: list of {role, content}, the last from the user.")
    turns: str | None = Field(None, description="Column with a list of user messages, answered in order.")
    template: str | None = Field(None, description="Jinja template of one user message; columns are its variables: {{ column }}.")
    system: str | Column | None = Field(None, description="System message: a constant, or {column: NAME}.")
    continue_final_message: bool | None = Field(
        None,
        description="How conversations end. null: with a user message. true: with the start of the answer, to be continued. false: with an answer, after which the chat template asks for something else (a label).",
    )
    answer_role: str = Field("assistant", description="Role of the answer in the output column `messages`.")
    keep: Literal["all"] | list[str] = Field("all", description="Input columns copied to the output: all, or a list.")
    image_hosts: list[str] = Field(
        [],
        description="Hosts whose images messages may name by URL, for an endpoint, which fetches them: example.org, or *.example.org for all below it.",
    )
    max_row_bytes: int = Field(
        8 * 2**20,
        gt=0,
        description="Maximum bytes of a row: of its JSONL line, or of its cells in a table. A longer one becomes an error row.",
    )

    @model_validator(mode="before")
    @classmethod
    def _requests(cls, fields: object) -> object:
        """The columns of a request of an OpenAI batch file (openai_batch.py)."""
        if isinstance(fields, dict) and fields.get("format") == "openai-batch":
            return {"messages": "messages", "id": "custom_id", "keep": []} | fields
        return fields

    @field_validator("image_hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        return [host_pattern(each) for each in value]

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        named = [name for name in _PROMPTS if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"name exactly one of {', '.join(_PROMPTS)} (got {', '.join(named)})")
        if self.continue_final_message is not None and self.messages is None:
            raise ValueError("continue_final_message is about conversations: name input.messages")
        return self

    @property
    def is_open(self) -> bool:
        """Whether no field says what makes the prompt: the columns decide (read/detect)."""
        return all(getattr(self, name) is None for name in _PROMPTS)

    @property
    def source(self) -> tuple[str, str]:
        """The field that says what makes the prompt, and its value: a column, or the template."""
        return next((name, value) for name in _PROMPTS if (value := getattr(self, name)) is not None)

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else list(self.path)


class Parse(Spec):
    regex: str | None = Field(None, description="Regex whose named groups are the columns. null: the answer is a JSON object.")
    columns: dict[str, Kind] = Field({}, description="string (a group's default), integer, number, boolean, json (any, as text).")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.regex is None:
            if not self.columns:
                raise ValueError("name the columns that the answer's JSON object has")
            return self
        try:
            groups = set(re.compile(self.regex).groupindex)
        except re.error as error:
            raise ValueError(f"regex: {error}") from None
        if not groups:
            raise ValueError("regex: it has no named groups, (?P<name>...)")
        if unknown := self.columns.keys() - groups:
            raise ValueError(f"columns.{min(unknown)}: no group of that name in the regex")
        return self

    @property
    def kinds(self) -> dict[str, Kind]:
        """All columns, in order."""
        if self.regex is None:
            return dict(self.columns)
        return {name: self.columns.get(name, "string") for name in re.compile(self.regex).groupindex}

    @property
    def type(self) -> pa.DataType:
        """Of the output's `parsed` column."""
        return pa.struct([(name, _TYPES.get(kind, pa.string())) for name, kind in self.kinds.items()])
