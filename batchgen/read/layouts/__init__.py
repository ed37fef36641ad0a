"""The row layouts by name. The field of `input` that is given selects one (prompt, messages, turns, template), unless
`input.layout` names another for the field's column."""

from __future__ import annotations

from batchgen.errors import BadRow, RowError, place
from batchgen.job.fields import Column
from batchgen.job.job import Job
from batchgen.read.layouts.base import RowLayout, kind
from batchgen.records import Row
from batchgen.registry import Registry

LAYOUTS: Registry[type[RowLayout]] = Registry(
    "input.layout",
    "batchgen.layouts",
    {name: f"batchgen.read.layouts.{name}:{name.capitalize()}Layout" for name in ("prompt", "messages", "turns", "template")},
)


def layout_of(job: Job) -> JobLayout:
    """Raises JobError for a layout that is not known, and for a template that does not compile."""
    layout = LAYOUTS.named(job.input.layout or job.input.source[0])
    return JobLayout(job, layout(job.input, job.schema_names))


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
