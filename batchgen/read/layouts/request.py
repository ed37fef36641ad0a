"""A request of OpenAI's chat completions in a column, as an object or its JSON text: messages, and parameters that become the
row's own `sampling` (read/requests.py)."""

from batchgen.errors import BadRow
from batchgen.job.input import Input
from batchgen.jsontext import loads
from batchgen.read.layouts import kind_of
from batchgen.read.layouts.messages import MessagesLayout
from batchgen.read.requests import columns_of
from batchgen.records import Data


class RequestLayout(MessagesLayout):
    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None:
        super().__init__(spec, attributes)
        self._body, self.column = self.column, "messages"

    def expanded(self, data: Data) -> Data:
        """The row with its request's messages and sampling as columns."""
        body = data.get(self._body)
        if isinstance(body, str):
            try:
                body = loads(body)
            except ValueError as error:
                raise BadRow("input", f"{self._body}: {error}") from None
        if not isinstance(body, dict):
            raise BadRow("input", f"{self._body} must be an object or its JSON text, not {kind_of(body)}")
        columns = columns_of(body)
        own = data.get("sampling")
        return {**data, **columns, "sampling": columns["sampling"] | (own if isinstance(own, dict) else {})}
