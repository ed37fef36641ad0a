"""How rows stand in the text of one shard: a copy of the text, as long as the text itself, says where they end (Pairs)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from batchgen.job.input import Input
from batchgen.read.formats.content import refuse_other
from batchgen.read.formats.text.stream import Pairs
from batchgen.records import Row


class Text(ABC):
    """The text of one shard. Here a row is a line, from the first on. `preamble` is the text before the first row, and `lines`
    the ordinal of the first row; both are known after `start`."""

    wanted = "text"
    preamble = b""
    lines = 0

    def __init__(self, spec: Input, name: str) -> None:
        self.spec, self.name = spec, name

    def refuse(self, first: bytes) -> None:
        """Raises InputError for the first bytes of a text that is no such text as a whole."""
        refuse_other(self.name, first, self.wanted)

    def start(self, texts: Iterator[bytes]) -> Iterator[bytes]:
        """The text after the preamble. Raises InputError."""
        return texts

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Called in place of `start` where rows are read from the middle of the text. Raises InputError."""

    def cut(self, texts: Iterator[bytes], whole: bool = False) -> Pairs:
        """A text that begins with a row; a `whole` one is all that follows the preamble. Raises InputError."""
        return ((text, text) for text in texts)

    @abstractmethod
    def row(self, ordinal: int, line: bytes | None) -> Row:
        """The row in a line that is not blank; None is a line over the cap. An error names shard, line and cause."""

    def is_whole(self, line: bytes) -> bool:
        """Whether a last line without a newline is one that nobody is still writing."""
        return self.row(self.lines, line).error is None
