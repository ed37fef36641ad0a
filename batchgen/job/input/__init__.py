"""The fields `input` and `parse` of a job: which shards, what of a row makes its prompt, and what is read from an answer."""

import re
from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from batchgen.job.fields import Column, Place, Spec
from batchgen.job.input.hosts import host_pattern

_PROMPTS = ("prompt", "messages", "conversations", "turns", "instruction", "template", "body")
_TALKS = ("messages", "conversations", "body")
Kind = Literal["string", "integer", "number", "boolean", "json"]
"""JSON Schema's names of types, and json, any value as its text."""
Function = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
QUERIED = ("path", "format", "csv", "types", "split", "subset", "query", "tables")
"""Fields of `input` that say which rows a query is over; the others are about the rows of its answer."""
_TYPES: dict[Kind, pa.DataType] = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}


class Csv(Spec):
    delimiter: str | None = Field(
        None, description='Character between cells: ";", "|", "\\t". Default: a tab for .tsv files, else a comma.'
    )
    quote: str | None = Field(
        '"', description="Character around cells with delimiters or newlines. null: cells are never quoted."
    )

    @field_validator("delimiter", "quote")
    @classmethod
    def _one(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\t -~]", value):
            raise ValueError("one ASCII character, no newline")
        return value

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.quote is not None and self.quote == self.delimiter:
            raise ValueError("quote and delimiter are the same character")
        return self


class Input(Spec):
    path: Place | Annotated[list[Place], Field(min_length=1)] = Field(
        description="File, directory, glob, or a list of them: local, s3://, gs://, az:// or hf://datasets/. The output of another job: its ok rows. With `format: dataset`: a Hub name or a saved directory."
    )
    format: str = Field(
        "auto",
        description="Format of the files: jsonl, csv, json (one array), parquet, dataset, delta, iceberg, openai-batch (OpenAI batch files: custom_id, body), output (of another job), or one that a package adds. auto: by file name and content.",
    )
    csv: Csv = Field(Csv(), description="How CSV files are written.")
    types: dict[str, Kind] = Field(
        {},
        description="Types of columns that are text: of CSV files and of folders named `key=value`. string (default), integer, number, boolean, json. An empty cell of another type than string is null.",
    )
    layout: str | None = Field(None, description="Row layout of the named column, in place of the field's own: a package's.")
    split: str = Field("train", description="Split of the dataset (`format: dataset`).")
    subset: str | None = Field(None, description="Configuration of a Hub dataset (`format: dataset`).")
    query: str | None = Field(
        None,
        description="SQL (DuckDB) over the table `input`, which is the rows of the files; the job's rows are those that it finds. Answered once for an output.",
    )
    tables: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Place | Annotated[list[Place], Field(min_length=1)]
    ] = Field({}, description="More tables of the query: name to what `path` may be.")
    id: str | None = Field(None, description="Column with the row's name, for the output; shard and row number identify a row.")
    each: str | None = Field(
        None,
        pattern=r"^[^.]+(\.[^.]+)*$",
        description="Path to a list in each row, every element of which becomes a row: data.paragraphs.qas.",
    )
    before: Function | None = Field(
        None,
        description="Your own Python function, module:function, of each row before its prompt is made: a dict in, a dict out.",
    )
    prompt: str | None = Field(None, description="Column with one user message.")
    documents: str | None = Field(
        None,
        description="Column with what is compared with the prompt, the query: one text (`task: score`), or a list of texts (`task: rerank`).",
    )
    messages: str | None = Field(None, description="Column with a conversation: list of {role, content}, the last from the user.")
    conversations: str | None = Field(None, description="Column with a ShareGPT conversation: list of {from, value}.")
    turns: str | None = Field(None, description="Column with a list of user messages (texts or {content}), answered in order.")
    body: str | None = Field(
        None, description="Column with the body of an OpenAI chat completion, an object or JSON text: messages and parameters."
    )
    instruction: str | None = Field(None, description="Column with an instruction (Alpaca, Dolly): one user message.")
    context: str | None = Field(None, description="Column with the text of the instruction (Alpaca's `input`), its next line.")
    history: str | None = Field(None, description="Column with the pairs of question and answer before the instruction.")
    template: str | None = Field(None, description="Jinja template of one user message; columns are its variables: {{ column }}.")
    system: str | Column | None = Field(None, description="System message: a constant, or {column: NAME}.")
    continue_final_message: bool | None = Field(
        None,
        description="How conversations end. null: with a user message. true: with the start of the answer, to be continued. false: with an answer, after which the chat template asks for something else (a label).",
    )
    drop_last_answer: bool = Field(False, description="Leave out an answer that ends a conversation, and make it anew.")
    answer_role: str = Field("assistant", description="Role of the answer in the output column `messages`.")
    keep: Literal["all"] | list[str] = Field("all", description="Input columns copied to the output: all, or a list.")
    images: str | None = Field(
        None,
        description="Column with the images of a row: a path, a URL or {bytes, path}, or a list. They take the places of `<image>` in the user's messages, or stand before the first.",
    )
    image_folder: str | None = Field(None, description="Folder below which rows may name images by path; on every node.")
    image_hosts: list[str] = Field(
        [],
        description="Hosts from which images are fetched that rows name by URL: example.org, or *.example.org for all below it.",
    )
    max_row_bytes: int = Field(
        8 * 2**20,
        gt=0,
        description="Maximum bytes of a row: of its JSONL line, or of its cells in a table; and of each image that it names. A longer one becomes an error row.",
    )

    @model_validator(mode="before")
    @classmethod
    def _requests(cls, fields: object) -> object:
        """The columns of a request of an OpenAI batch file (openai_batch.py)."""
        if isinstance(fields, dict) and fields.get("format") == "openai-batch":
            return {**({} if fields.get("prompt") else {"messages": "messages"}), "id": "custom_id", "keep": []} | fields
        return fields

    @field_validator("image_hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        return [host_pattern(each) for each in value]

    @model_validator(mode="after")
    def _asked(self) -> Self:
        if self.query is None:
            if self.tables:
                raise ValueError("tables are those of a query: write input.query")
            return self
        if "input" in map(str.lower, self.tables):
            raise ValueError("tables.input: the table `input` is the rows of input.path: choose another name")
        if self.format == "openai-batch":
            raise ValueError("query: name the columns of the requests in it, and set format: jsonl")
        return self

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        named = [name for name in _PROMPTS if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"name exactly one of {', '.join(_PROMPTS)} (got {', '.join(named)})")
        talks = self.conversation is not None
        about = {"continue_final_message": self.continue_final_message is not None, "drop_last_answer": self.drop_last_answer}
        if not talks and (field := next((field for field, given in about.items() if given), None)):
            raise ValueError(f"{field} is about conversations: name input.{' or input.'.join(_TALKS)}")
        if all(about.values()):
            raise ValueError("drop_last_answer leaves out what continue_final_message needs: choose one")
        if self.instruction is None and (
            field := next((field for field in ("context", "history") if getattr(self, field)), None)
        ):
            raise ValueError(f"{field} belongs to an instruction: name input.instruction")
        return self

    @property
    def is_open(self) -> bool:
        """Whether no field says what makes the prompt: the columns decide (read/detect)."""
        return all(getattr(self, name) is None for name in _PROMPTS)

    @property
    def conversation(self) -> str | None:
        """The column with a conversation, if the prompt is one."""
        return next((getattr(self, name) for name in _TALKS if getattr(self, name) is not None), None)

    @property
    def source(self) -> tuple[str, str]:
        """The field that says what makes the prompt, and its value: a column, or the template."""
        return next((name, value) for name in _PROMPTS if (value := getattr(self, name)) is not None)

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else list(self.path)


class Parse(Spec):
    regex: str | None = Field(None, description="Regex whose named groups are the columns. null: the answer is a JSON object.")
    after: Function | None = Field(
        None,
        description="In place of a regex, your own Python function, module:function, of each answer: the row with its answer in, a dict of the columns out.",
    )
    columns: dict[str, Kind] = Field({}, description="string (a group's default), integer, number, boolean, json (any, as text).")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.regex is None:
            if not self.columns:
                made = "the answer's JSON object has" if self.after is None else f"{self.after} returns"
                raise ValueError(f"name the columns that {made}")
            return self
        if self.after is not None:
            raise ValueError("regex and after both make the columns: give one of them")
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
