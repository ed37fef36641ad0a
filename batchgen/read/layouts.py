"""Row -> conversation. The row layout is the given field of `input` (prompt, messages, turns, template), unless `input.layout`
names another for the field's column."""

from collections.abc import Mapping
from typing import Any, Protocol

from batchgen import logs
from batchgen.errors import BadRow, JobError, RowError, place
from batchgen.job.fields import Column
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.records import CALL_KEYS, Data, Message, Row
from batchgen.registry import Registry
from batchgen.render.messages import read_calls, read_content
from batchgen.render.sandbox import RowTemplate

_LOG = logs.logger("read")
ROLES = ("system", "developer", "user", "assistant", "tool", "label")
Conversation = tuple[list[Message], tuple[str, ...]]  # at least one message, and the user turns after the model's answers


class RowLayout(Protocol):
    """Made from the `input` field and the names of the job's attributes; raises JobError where it cannot be."""

    columns: Mapping[str, str]  # the input columns that it reads, by the job's field that names one
    optional: frozenset[str] = frozenset()  # columns that it reads where the input has them

    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None: ...

    def read(self, data: Data) -> Conversation:
        """Raises BadRow (input, render)."""


_BUILT_IN = {name: f"{__name__}:{name.capitalize()}Layout" for name in ("prompt", "messages", "turns", "template")}
LAYOUTS: Registry[type[RowLayout]] = Registry("input.layout", "batchgen.layouts", _BUILT_IN)


class JobLayout:
    """The job's row layout with its system message; without `calls` the output's messages have no place for CALL_KEYS. Raises
    JobError for an unknown layout or a template that does not compile."""

    def __init__(self, job: Job, calls: bool = True) -> None:
        self._calls = calls
        self._layout = LAYOUTS.named(job.input.layout or job.input.source[0])(job.input, job.schema_names)
        self._system = job.input.system
        self.columns = dict(self._layout.columns)
        self.needed = {*self.columns.values(), *getattr(self._layout, "optional", ())}
        if isinstance(self._system, Column):
            self.columns["input.system"] = self._system.column
            self.needed.add(self._system.column)

    def lay_out(self, row: Row, shard: str) -> Row:
        """The row with its conversation, or with an error that names shard and row."""
        if row.data is None or row.error is not None:
            return row
        try:
            system = self._system
            if isinstance(system, Column):
                system = row.data.get(system.column)
                if system is not None and not isinstance(system, str):
                    raise BadRow("input", f"system must be a string, not {_kind(system)}")
            messages, turns = self._layout.read(row.data)
            if not self._calls and (key := next((key for key in CALL_KEYS for one in messages if key in one), None)):
                what = f"a message has a {key}; none had in the rows that the columns of this output were chosen by"
                raise BadRow("input", f"{what}: put such a row first, in an output of its own")
        except BadRow as bad:
            return Row(row.ordinal, row.data, RowError(bad.code, f"{place(shard, row.ordinal)}: {bad}"))
        except Exception as error:  # of a package's layout, or one that nobody foresaw
            return Row(row.ordinal, row.data, logs.internal_error(_LOG, place(shard, row.ordinal), error))
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        return Row(row.ordinal, row.data, None, messages, turns)


class ColumnLayout(RowLayout):
    """A layout of one column, which a field of `input` names."""

    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None:
        field, self.column = spec.source
        self.columns = {f"input.{field}": self.column}

    def value(self, data: Data) -> Any:
        """The row's value. Raises BadRow (input) where it has none."""
        value = data.get(self.column)
        if value is None:
            raise BadRow("input", f"{self.column} is {'null' if self.column in data else 'missing'}")
        return value


class PromptLayout(ColumnLayout):
    """One user message."""

    def read(self, data: Data) -> Conversation:
        value = self.value(data)
        if not isinstance(value, str):
            raise BadRow("input", f"{self.column} must be a string, not {_kind(value)}")
        return [{"role": "user", "content": value}], ()


class TurnsLayout(ColumnLayout):
    """A list of user messages, answered in order."""

    def read(self, data: Data) -> Conversation:
        value = self.value(data)
        if not isinstance(value, list) or not value or not all(isinstance(turn, str) for turn in value):
            raise BadRow("input", f"{self.column} must be a list of at least one string")
        return [{"role": "user", "content": value[0]}], tuple(value[1:])


class MessagesLayout(ColumnLayout):
    """A list of {role, content} and perhaps CALL_KEYS and keys with the names of attributes; the model answers or continues the
    last. Any other key that is not null or empty is an error: a template might ignore it without a word."""

    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None:
        super().__init__(spec, attributes)
        self._continue, self._attributes = spec.continue_final_message, attributes

    def read(self, data: Data) -> Conversation:
        value, column = self.value(data), self.column
        if not isinstance(value, list) or not value:
            raise BadRow("input", f"{column} must be a list of at least one message")
        messages = [self._message(f"{column}: message {number}", message) for number, message in enumerate(value, 1)]
        last, wanted = messages[-1], ("user", "tool") if self._continue is None else ("assistant",)
        if last["role"] not in wanted:
            raise BadRow("input", f"{column}: the last message must be the {' or '.join(wanted)}'s, not the {last['role']}'s")
        if self._continue and not isinstance(last["content"], str):
            raise BadRow("input", f"{column}: the last message, which is to be continued, has an image")
        return messages, ()

    def _message(self, where: str, message: object) -> Message:
        if not isinstance(message, dict):
            raise BadRow("input", f"{where} must be a struct, not {_kind(message)}")
        role, given = message.get("role"), message.get("content")
        if role not in ROLES:
            raise BadRow("input", f"{where}: role {role!r} is not one of {', '.join(ROLES)}")
        try:
            content, calls = read_content(given), read_calls(message)
        except BadRow as bad:
            raise BadRow("input", f"{where}: {bad}") from None
        if content is None and (given not in (None, []) or "tool_calls" not in calls):
            raise BadRow("input", f"{where}: content must be a string or a list of parts, not {_kind(given)}")
        known = {"role", "content", *CALL_KEYS, *self._attributes}
        if unknown := sorted(key for key, entry in message.items() if key not in known and entry not in (None, [], {})):
            keys = ", ".join(("role", "content", *CALL_KEYS))
            raise BadRow("input", f"{where}: key {unknown[0]!r}: none of {keys} or of the attributes that the job declares")
        return {"role": role, "content": content} | calls | {name: message[name] for name in self._attributes if name in message}


class TemplateLayout(RowLayout):
    """One user message, rendered from the row's columns by a Jinja template."""

    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None:
        try:
            self._template = RowTemplate(spec.template or "")
        except ValueError as error:
            raise JobError(f"input.template: {error}") from None
        self.columns = {f"input.template: {name}": name for name in sorted(self._template.columns)}
        self.optional = self._template.optional

    def read(self, data: Data) -> Conversation:
        return [{"role": "user", "content": self._template.render(data)}], ()


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
