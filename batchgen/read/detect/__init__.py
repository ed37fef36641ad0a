"""What an input is, by the columns of its first rows: the layouts in use, and which fields of `input` read them.

KINDS is the table to extend: the first kind whose columns are all there is taken."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from batchgen.errors import JobError
from batchgen.job.fields import Fields
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.job.pooling import task_mistake
from batchgen.job.schemas import BUILT_IN
from batchgen.read.discover import discover
from batchgen.read.formats import Found, format_of
from batchgen.read.formats.table import TableFormat
from batchgen.read.requests import KINDS as KINDS_OF_REQUESTS
from batchgen.read.requests import RequestKind
from batchgen.records import Data

Shape = Literal["text", "integer", "object", "texts", "messages", "answered", "sharegpt", "other", "null"]
ROWS = 100  # of the first shard are looked at
MOSTLY = 0.9  # of the values of a column have its shape
CHAT = ("messages", "conversation", "conversations", "chat", "prompt", "dialog", "dialogue")
PROMPTS = ("prompt", "question", "instruction", "query", "text", "user", "input", "problem")
"""Names of a column with one user message. The first wins over all others; of the rest there must be only one."""
ANSWERS = {"response", "output", "answer", "completion", "chosen", "rejected", "label", "category", "source", "language"}
SYSTEMS = ("system", "system_prompt", "system_message")
IDS = ("id", "custom_id", "question_id", "prompt_id", "uuid", "key")


@dataclass(frozen=True)
class Kind:
    """A layout: its columns, each the names that it may have with its shape, and the fields of `input` for it, in which {0}, {1}
    stand for the names. The only column with the shape of a conversation (CHAT) may have any name."""

    title: str
    columns: tuple[tuple[tuple[str, ...], Shape], ...]
    fields: Mapping[str, str | bool]


KINDS = (
    Kind("OpenAI batch file", ((("custom_id",), "text"), (("body",), "object")), {"format": "openai-batch"}),
    Kind("OpenAI messages", ((CHAT, "messages"),), {"messages": "{0}"}),
    Kind(
        "OpenAI messages that end with an answer, which is made anew",
        ((CHAT, "answered"),),
        {"messages": "{0}", "drop_last_answer": True},
    ),
    Kind(
        "ShareGPT conversations, whose last answers are made anew",
        ((CHAT, "sharegpt"),),
        {"conversations": "{0}", "drop_last_answer": True},
    ),
    Kind("Alpaca", ((("instruction",), "text"), (("input", "context"), "text")), {"instruction": "{0}", "context": "{1}"}),
    Kind("user messages, each answered in turn", ((("turns", "prompt"), "texts"),), {"turns": "{0}"}),
)
DETECTED = {"prompt", "id", "system", *(name for kind in KINDS for name in kind.fields)}


@dataclass(frozen=True)
class Detected:
    """`fields` of `input`; `title` says what they read. `columns`: those of the first rows with their shapes. `rivals`: other
    columns that may as well be the prompt. `task` is that of the requests of a batch file.
    `steering`: columns with values of the attributes of `schema` karakuri."""

    title: str
    fields: Fields
    columns: Mapping[str, Shape]
    rivals: tuple[str, ...] = ()
    steering: tuple[str, ...] = ()
    task: str = "generate"
    template: str | None = None  # for model.chat_template


def detect(columns: Mapping[str, Shape], prompt: str | None = None) -> Detected | None:
    """What an input with these columns is; `prompt` names the column that makes the prompt. None where they do not tell. Raises
    JobError for a `prompt` that is no such column."""
    names = {name.lower(): name for name in reversed(list(columns))}
    rivals: tuple[str, ...] = ()
    if prompt is None:
        found = next((one for kind in KINDS if (one := _of_kind(kind, columns, names))), None)
        if found is None:
            texts = [names[name] for name in PROMPTS if columns.get(names.get(name, "")) == "text"]
            apart = {*ANSWERS, *SYSTEMS, *IDS}
            texts = texts or [name for name, shape in columns.items() if shape == "text" and name.lower() not in apart]
            if not texts or (len(texts) > 1 and texts[0].lower() not in PROMPTS):
                return None
            found = "one user message a row", {"prompt": texts[0]}
            rivals = tuple(texts[1:]) if texts[0].lower() != PROMPTS[0] else ()
    else:
        found = _of_column(prompt, columns)
    title, fields = found
    if "format" in fields:
        return Detected(title, fields, columns)
    if (name := names.get(next((one for one in SYSTEMS if columns.get(names.get(one, "")) == "text"), ""))) is not None:
        fields |= {} if "messages" in fields else {"system": {"column": name}}
    if own := next((names[one] for one in IDS if columns.get(names.get(one, "")) in ("text", "integer")), None):
        fields |= {"id": own}
    attributes = BUILT_IN["karakuri"].names
    steering = tuple(name for name in attributes if columns.get(name) == "integer")
    return Detected(title, fields, columns, rivals, steering)


def _of_kind(kind: Kind, columns: Mapping[str, Shape], names: Mapping[str, str]) -> tuple[str, Fields] | None:
    chosen = []
    for known, shape in kind.columns:
        named = [names[one] for one in known if columns.get(names.get(one, "")) == shape]
        alike = [name for name, of in columns.items() if of == shape] if known is CHAT else []
        if not (named or len(alike) == 1):
            return None
        chosen.append((named or alike)[0])
    return kind.title, _filled(kind, chosen)


def _filled(kind: Kind, names: list[str]) -> Fields:
    return {key: value.format(*names) if isinstance(value, str) else value for key, value in kind.fields.items()}


def _of_column(name: str, columns: Mapping[str, Shape]) -> tuple[str, Fields]:
    if (shape := columns.get(name)) is None:
        raise JobError(f"--prompt {name}: no such column in the input", f"its columns are {', '.join(columns)}")
    if shape == "text":
        return "one user message a row", {"prompt": name}
    for kind in KINDS:
        if len(kind.columns) == 1 and kind.columns[0][1] == shape:
            return kind.title, _filled(kind, [name])
    raise JobError(f"--prompt {name}: a column of {shape} values, which makes no prompt", "name one with texts or messages")


def shape_of(values: Iterable[object]) -> Shape:
    """The shape that most values of a column have; `other` where they differ."""
    counted = Counter(_shape(value) for value in values if value is not None)
    shape, times = counted.most_common(1)[0] if counted else ("null", 0)
    if {"messages", "answered"} >= counted.keys() and counted:
        return shape
    return shape if times >= MOSTLY * counted.total() else "other"


def _shape(value: object) -> Shape:
    if isinstance(value, str):
        return "text"
    if isinstance(value, int) and not isinstance(value, bool):
        return "integer"
    if isinstance(value, dict):
        return "object"
    if not isinstance(value, list) or not value:
        return "other"
    if all(isinstance(item, str) for item in value):
        return "texts"
    for keys, shape in (({"role", "content"}, "messages"), ({"from", "value"}, "sharegpt")):
        if all(isinstance(item, dict) and keys <= item.keys() for item in value):
            return "answered" if value[-1].get("role") == "assistant" else shape  # type: ignore[return-value]
    return "other"


def detect_in(spec: Input, prompt: str | None = None) -> tuple[Detected | None, list[str]]:
    """As detect, of the rows at an input's paths, and the names of their columns. The output of another job has a conversation
    and an answer, and does not tell which of them is to be asked. Raises InputError too."""
    found = discover(spec)
    columns = columns_of(spec, found)
    known = detect(columns, prompt) if prompt is not None or not found[0].upstream else None
    if known is not None and known.fields.get("format") == "openai-batch" and (kind := _requests(spec, found)) is not None:
        more = kind.fields if kind.task != "generate" or kind.template else {}
        known = replace(known, fields=known.fields | more, task=kind.task, template=kind.template)
    return known, list(columns)


def _requests(spec: Input, found: list[Found]) -> RequestKind | None:
    """The kind of the requests in a batch file, by its first one."""
    rows = _first_rows(spec, next((shard for shard in found if shard.size), found[0]))
    return next((KINDS_OF_REQUESTS.get(str(row.get("url"))) for row in rows), None)


def columns_of(spec: Input, found: list[Found]) -> dict[str, Shape]:
    """The columns of the first rows of an input, in order of appearance. Raises InputError."""
    rows = _first_rows(spec, next((shard for shard in found if shard.size), found[0]))
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: shape_of(row.get(name) for row in rows) for name in names}


def _first_rows(spec: Input, shard: Found) -> list[Data]:
    kind = format_of(spec, shard)
    if isinstance(kind, TableFormat):
        return [row for row, _ in itertools.islice(kind.first(spec, shard.name, ROWS), ROWS)]
    head = kind.head(spec, shard.name, ROWS)
    return [row for row, _ in head] if not hasattr(head, "names") else []


def with_prompt(job: Job, before: Job | None = None) -> Job:
    """The job with what its input does not say: what makes the prompt, as in the job `before` it of the same output, or else by
    the columns. Raises JobError with the columns where they do not tell, InputError."""
    spec = job.input
    if not spec.is_open:
        return job
    if before is not None:
        given = {name: value for name, value in before.input.model_dump().items() if name in DETECTED and value is not None}
    else:
        found, columns = detect_in(spec)
        if found is None or found.rivals:
            which = [found.fields["prompt"], *found.rivals] if found else columns
            told = ", ".join(which) or "there is no row that can be read"
            cause = f"input: no field says what makes the prompt, and the columns do not tell: {told}"
            raise JobError(cause, "name the column with input.prompt, input.messages or input.turns, or write input.template")
        if found.task != job.task and found.fields.get("format") == "openai-batch":
            raise JobError(f"input: its requests are for task {found.task}, the job's is {job.task}", f"set task: {found.task}")
        unread = {"drop_last_answer", "system"} if job.pools else set[str]()
        given = {name: value for name, value in found.fields.items() if name not in unread}
    own = spec.model_dump(exclude_unset=True)
    whole = job.model_copy(update={"input": Input.model_validate({**given, **own})})
    if wrong := task_mistake(whole):
        raise JobError(wrong)
    return whole
