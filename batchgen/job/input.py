"""The `input` field of a job: which shards, and what of a row makes its prompt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from batchgen.job.fields import Column, Spec

_PROMPTS = ("prompt", "messages", "turns", "template")


class Input(Spec):
    path: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="File, directory, glob, or a list of them: local, s3://, gs://, az:// or hf://datasets/. The output of another job: its ok rows. With `format: dataset`: a Hub name or a saved directory."
    )
    format: str = Field(
        "auto",
        description="Format of the files: jsonl, parquet, dataset, openai-batch (OpenAI batch files: custom_id, body), output (of another job), or one that a package adds. auto: by file name.",
    )
    layout: str | None = Field(
        None, description="Row layout of the named column, in place of the field's own: one that a package adds."
    )
    split: str = Field("train", description="Split of the dataset (`format: dataset`).")
    subset: str | None = Field(None, description="Configuration of a Hub dataset (`format: dataset`).")
    id: str | None = Field(
        None, description="Column with the row's name. Copied to the output; rows are identified by shard and row number."
    )
    prompt: str | None = Field(None, description="Column with one user message.")
    messages: str | None = Field(
        None, description="Column with a conversation: a list of {role, content}, the last from the user."
    )
    turns: str | None = Field(None, description="Column with a list of user messages, answered in order.")
    template: str | None = Field(
        None, description="Jinja template of one user message; the row's columns are its variables: {{ column }}."
    )
    system: str | Column | None = Field(None, description="System message: a constant, or {column: NAME}.")
    continue_final_message: bool | None = Field(
        None,
        description="How conversations end. null: with a user message. true: with the start of the answer, to be continued. false: with an answer, after which the chat template asks for something else (a label).",
    )
    answer_role: str = Field("assistant", description="Role of the answer in the output column `messages`.")
    keep: Literal["all"] | list[str] = Field("all", description="Input columns copied to the output: all, or a list.")
    max_row_bytes: int = Field(8 * 2**20, gt=0, description="Maximum bytes of a JSONL line. A longer one becomes an error row.")

    @model_validator(mode="before")
    @classmethod
    def _requests(cls, fields: object) -> object:
        """The columns of a request of an OpenAI batch file (openai_batch.py)."""
        if isinstance(fields, dict) and fields.get("format") == "openai-batch":
            return {"messages": "messages", "id": "custom_id", "keep": []} | fields
        return fields

    @model_validator(mode="after")
    def _one_prompt(self) -> Input:
        named = [name for name in _PROMPTS if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(f"name exactly one of {', '.join(_PROMPTS)} (got {', '.join(named) or 'none'})")
        if self.continue_final_message is not None and self.messages is None:
            raise ValueError("continue_final_message is about conversations: name input.messages")
        return self

    @property
    def source(self) -> tuple[str, str]:
        """The field that says what makes the prompt, and its value: a column, or the template."""
        return next((name, value) for name in _PROMPTS if (value := getattr(self, name)) is not None)

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else list(self.path)
