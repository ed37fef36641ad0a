"""The row layouts by name. The field of `input` that is given selects one (prompt, messages, turns, template), unless
`input.layout` names another for the field's column.

A package adds its own with an entry point of the group `batchgen.layouts` that names a RowLayout class; `register` adds one
to this process.
"""

from __future__ import annotations

import functools
from importlib.metadata import entry_points

from batchgen.errors import BadRow, JobError, RowError, place
from batchgen.job.fields import Column, unknown_key
from batchgen.job.job import Job
from batchgen.read.layouts.base import RowLayout, kind
from batchgen.read.layouts.messages import MessagesLayout
from batchgen.read.layouts.prompt import PromptLayout
from batchgen.read.layouts.template import TemplateLayout
from batchgen.read.layouts.turns import TurnsLayout
from batchgen.records import Row

LAYOUTS: dict[str, type[RowLayout]] = {
    "prompt": PromptLayout,
    "messages": MessagesLayout,
    "turns": TurnsLayout,
    "template": TemplateLayout,
}


def register(name: str, layout: type[RowLayout]) -> None:
    LAYOUTS[name] = layout


@functools.cache
def _load_packages() -> None:
    for entry in entry_points(group="batchgen.layouts"):
        register(entry.name, entry.load())


def layout_of(job: Job) -> JobLayout:
    """Raises JobError for an unknown layout, with the nearest name, and for a template that does not compile."""
    _load_packages()
    name = job.input.layout or job.input.source[0]
    if name not in LAYOUTS:
        raise JobError(f"input.layout: {unknown_key(name, LAYOUTS, 'layout')}", f"there are {', '.join(LAYOUTS)}")
    return JobLayout(job, LAYOUTS[name](job.input, job.schema_names))


class JobLayout:
    """A row layout with the job's system message."""

    def __init__(self, job: Job, layout: RowLayout) -> None:
        self._layout, self._system = layout, job.input.system
        self.columns = dict(layout.columns)
        if isinstance(self._system, Column):
            self.columns["input.system"] = self._system.column

    def lay_out(self, row: Row, shard: str) -> Row:
        """The row with its conversation, or with the error that names shard and row."""
        if row.data is None or row.error is not None:
            return row
        try:
            system = self._system
            if isinstance(system, Column):
                system = row.data.get(system.column)
                if system is not None and not isinstance(system, str):
                    raise BadRow("input", f"system must be a string, not {kind(system)}")
            messages, turns = self._layout.read(row.data)
        except BadRow as bad:
            return Row(row.ordinal, row.data, RowError(bad.code, f"{place(shard, row.ordinal)}: {bad}"))
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        return Row(row.ordinal, row.data, None, messages, turns)
