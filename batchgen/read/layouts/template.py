"""One user message, rendered from the row's columns by a Jinja template."""

from batchgen.errors import JobError
from batchgen.job.input import Input
from batchgen.read.layouts import Conversation, RowLayout
from batchgen.records import Data
from batchgen.render.sandbox import RowTemplate


class TemplateLayout(RowLayout):
    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None:
        try:
            self._template = RowTemplate(spec.template or "")
        except ValueError as error:
            raise JobError(f"input.template: {error}") from None
        self.columns = {f"input.template: {name}": name for name in sorted(self._template.columns)}
        self.optional = self._template.optional

    def read(self, data: Data) -> Conversation:
        return [{"role": "user", "content": self._template.render(data)}], ()
