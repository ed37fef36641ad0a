"""`input.template`: one user message that a Jinja template makes of the row's columns."""

from __future__ import annotations

from collections.abc import Mapping

from batchgen.errors import JobError
from batchgen.job.input import Input
from batchgen.read.layouts.base import Conversation, RowLayout
from batchgen.render.sandbox.template import RowTemplate


class TemplateLayout(RowLayout):
    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None:
        try:
            self._template = RowTemplate(spec.template or "")
        except ValueError as error:
            raise JobError(f"input.template: {error}") from None

    @property
    def columns(self) -> Mapping[str, str]:
        return {f"input.template: {name}": name for name in sorted(self._template.columns)}

    def read(self, data: Mapping[str, object]) -> Conversation:
        return [{"role": "user", "content": self._template.render(data)}], ()
