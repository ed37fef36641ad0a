"""The `input` field of a job: which shards, and what of a row makes its prompt."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from batchgen.job.fields import Column, Spec

_PROMPTS = ("prompt", "messages", "turns", "template")


class Input(Spec):
    path: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="File, directory, glob or list of them; local or s3:// gs:// az:// hf://datasets/; the output of another job, for its ok rows; for `format: dataset` a Hub name or a saved directory."
    )
    format: str = Field(
        "auto",
        description="Format of the shards: jsonl, parquet, dataset, openai-batch (OpenAI's batch files: custom_id, body), output (of another job), or one that a package adds. auto: by the file names.",
    )
    layout: str | None = Field(
        None, description="Row layout of the named column, where it is not the field's own: one that a package adds."
    )
    split: str = Field("train", description="Split of a dataset (`format: dataset`).")
    subset: str | None = Field(None, description="Configuration of a Hub dataset (`format: dataset`).")
    id: str | None = Field(None, description="Column carried as the row's name; data, never the key.")
    prompt: str | None = Field(None, description="Column with one user message.")
    messages: str | None = Field(
        None, description="Column with a conversation: a list of {role, content}, the last one from the user."
    )
    turns: str | None = Field(None, description="Column with a list of user messages, each answered in order.")
    template: str | None = Field(None, description="One user message made of the row's columns: Jinja, {{ column }}.")
    system: str | Column | None = Field(None, description="System message: a constant or {column: NAME}.")
    continue_final_message: bool | None = Field(
        None,
        description="Null: conversations end with the user's message. true: with the beginning of the answer. false: with an answer, after which the template asks for something else (a label).",
    )
    answer_role: str = Field("assistant", description="Role of the answer in the output's `messages`.")
    keep: Literal["all"] | list[str] = Field("all", description="Input columns that the output carries.")
    max_row_bytes: int = Field(8 * 2**20, gt=0, description="A longer JSONL line is an error row.")

    @model_validator(mode="before")
    @classmethod
    def _requests(cls, fields: Any) -> Any:
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
