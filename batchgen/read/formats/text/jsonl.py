"""JSONL, plain or compressed: a JSON object per line, or a JSON string, which is the column `text`; blank lines are no rows. A
line that is neither, or is over `input.max_row_bytes` (skipped without being held), is an error row and leaves its neighbours as
they are."""

import json

from batchgen import jsontext
from batchgen.errors import BadRow, InputError, RowError, place
from batchgen.job.input import Input
from batchgen.read.formats.text.base import TextFormat
from batchgen.read.formats.text.rows import Text
from batchgen.read.formats.text.stream import BOM, endings
from batchgen.records import Data, Row

COLUMN_OF_STRINGS = "text"  # as the `datasets` library names it


class Jsonl(TextFormat):
    name = "jsonl"
    endings = endings(".jsonl", ".ndjson")

    def text(self, spec: Input, name: str) -> Text:
        return JsonLines(spec, name, self)

    def row(self, spec: Input, shard: str, ordinal: int, line: bytes | None) -> Row:
        """See Text.row."""
        name: Data | None = None
        try:
            if line is None:
                raise BadRow("input", f"the line is over input.max_row_bytes ({spec.max_row_bytes})")
            found = parse(line.removeprefix(BOM) if ordinal == 0 else line)
            name = self.name_of(found)
            return Row(ordinal, self.data(found, spec))
        except BadRow as bad:
            return Row(ordinal, name, RowError(bad.code, f"{place(shard, ordinal)}: {bad}"))

    def name_of(self, line: Data) -> Data | None:
        """The column that names a row whose line is refused."""
        return None

    def data(self, line: Data, spec: Input | None = None) -> Data:
        """The columns of a row from a line's object. Raises BadRow."""
        return line


class JsonLines(Text):
    wanted = "lines of JSON"

    def __init__(self, spec: Input, name: str, form: Jsonl) -> None:
        super().__init__(spec, name)
        self._form = form

    def row(self, ordinal: int, line: bytes | None) -> Row:
        return self._form.row(self.spec, self.name, ordinal, line)

    def is_whole(self, line: bytes) -> bool:
        return super().is_whole(line) or _is_object(line)

    def refuse(self, first: bytes) -> None:
        super().refuse(first)
        line, _, rest = first.removeprefix(BOM).lstrip().partition(b"\n")
        remedy = "set input.format: json, or name it .json"
        if line.startswith(b"["):
            try:
                jsontext.loads(line)
            except ValueError:
                rest = b""
            if not rest.strip():
                raise InputError(f"shard {self.name}: it is one JSON array, not a JSON object per line", remedy)
        if line.startswith(b"{") and line.rstrip().endswith((b"{", b"[", b",")) and rest.startswith((b" ", b"\t", b'"')):
            what = f"shard {self.name}: it is one JSON object over several lines, not a JSON object per line"
            raise InputError(what, "write its rows one per line: jq -c '.COLUMN[]'")


def parse(text: bytes) -> Data:
    """The row in a JSON text. Raises BadRow."""
    try:
        value = jsontext.loads(text)
    except ValueError as error:
        raise BadRow("input", str(error)) from None
    if isinstance(value, str):
        return {COLUMN_OF_STRINGS: value}
    if not isinstance(value, dict):
        raise BadRow("input", f"expected a JSON object, got {type(value).__name__}")
    return value


def _is_object(line: bytes) -> bool:
    """Whether a line is a whole JSON object, if one that is refused."""
    try:
        return isinstance(json.loads(line.removeprefix(BOM)), dict)
    except RecursionError:
        return True
    except ValueError:
        return False


JSONL = Jsonl()
