"""Row -> conversation. The row layout is that of the field of `input` which names the prompt, unless `input.layout` names another
for the field's column. One file a layout, and one for the images of all."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol

from batchgen import logs
from batchgen.errors import BadRow, RowError, place
from batchgen.job.fields import Column
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.read.layouts.pictures import with_pictures
from batchgen.records import MESSAGE_KEYS, Data, Message, Row
from batchgen.registry import Registry

_LOG = logs.logger("read")
Conversation = tuple[list[Message], tuple[str, ...]]  # at least one message, and the user turns after the model's answers


class RowLayout(Protocol):
    """Made from the `input` field and the names of the job's attributes; raises JobError where it cannot be."""

    columns: Mapping[str, str]  # the input columns that it reads, by the job's field that names one
    optional: frozenset[str] = frozenset()  # columns that it reads where the input has them
    ends: tuple[str, ...] = ()  # roles that the last message may have, where the layout minds; a task may set others

    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None: ...

    def read(self, data: Data) -> Conversation:
        """Raises BadRow (input, render)."""


_BUILT_IN = {
    "prompt": f"{__name__}.prompt:PromptLayout",
    "messages": f"{__name__}.messages:MessagesLayout",
    "sharegpt": f"{__name__}.sharegpt:ShareGPTLayout",
    "turns": f"{__name__}.turns:TurnsLayout",
    "alpaca": f"{__name__}.alpaca:AlpacaLayout",
    "request": f"{__name__}.request:RequestLayout",
    "template": f"{__name__}.template:TemplateLayout",
}
ROLES = ("system", "developer", "user", "assistant", "tool", "label")
OF_FIELD = {"conversations": "sharegpt", "instruction": "alpaca", "body": "request"}
"""The layouts whose name is not their field's."""
LAYOUTS: Registry[type[RowLayout]] = Registry("input.layout", "batchgen.layouts", _BUILT_IN)


class JobLayout:
    """The job's row layout with its system message. `keys`: what the output's messages have beside role and content. Raises
    JobError for an unknown layout or a template that does not compile."""

    def __init__(self, job: Job, keys: Collection[str] = MESSAGE_KEYS) -> None:
        self._missing = [key for key in MESSAGE_KEYS if key not in keys]
        self._layout = LAYOUTS.named(_name(job.input))(job.input, job.schema_names)
        if job.pools and getattr(self._layout, "ends", None):  # nothing is answered: a conversation is read as a whole
            self._layout.ends = ("assistant",) if job.task == "reward" else ROLES
        self._system = job.input.system
        self.columns = dict(self._layout.columns)
        self.needed = {*self.columns.values(), *getattr(self._layout, "optional", ())}
        self._images = job.input.images
        if self._images is not None:
            self.columns["input.images"] = self._images
            self.needed.add(self._images)
        if isinstance(self._system, Column):
            self.columns["input.system"] = self._system.column
            self.needed.add(self._system.column)

    def lay_out(self, row: Row, shard: str) -> Row:
        """The row with its conversation, or with an error that names shard and row."""
        if row.data is None or row.error is not None:
            return row
        try:
            data: Data = row.data
            if (expanded := getattr(self._layout, "expanded", None)) is not None:
                data = expanded(row.data)
                row = replace(row, data=data)
            system = self._system
            if isinstance(system, Column):
                system = data.get(system.column)
                if system is not None and not isinstance(system, str):
                    raise BadRow("input", f"system must be a string, not {kind_of(system)}")
            messages, turns = self._layout.read(data)
            if self._images is not None:
                messages = with_pictures(messages, self._images, data.get(self._images))
            if key := next((key for key in self._missing for one in messages if key in one), None):
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


def _name(spec: Input) -> str:
    field = spec.source[0]
    return spec.layout or OF_FIELD.get(field, field)


def kind_of(value: object) -> str:
    """The type of a value, as messages name it."""
    return "null" if value is None else type(value).__name__
