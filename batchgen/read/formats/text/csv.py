"""CSV and TSV, plain or compressed: the first row is the header, every cell is text unless `input.types` says otherwise.

RFC 4180 (https://www.rfc-editor.org/rfc/rfc4180), in UTF-8: a quoted cell may hold delimiters, newlines and doubled quotes. A
quote opens a cell only if another one closes it, before a delimiter or the end of a line; else it is an error of its own line,
and the lines after it stay rows. Cells are parsed by Python's csv, row by row: pyarrow.csv refuses a whole block for one bad row,
and knows neither where the row stands in the file nor the column. Ordinals count rows, the header's being 0, so that the names of
rows in errors are those of spreadsheets."""

import csv
import itertools
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from batchgen.errors import BadRow, InputError, RowError, place
from batchgen.job.input import Input
from batchgen.read.formats.text.base import TextFormat
from batchgen.read.formats.text.rows import Text
from batchgen.read.formats.text.stream import BLANK, BOM, Pairs, chunks, codec_of, endings, open_text, seen
from batchgen.read.typed import typed
from batchgen.records import Data, Row

OTHER_DELIMITERS = (";", "\t", "|")
_HALF = re.compile("[\ud800-\udfff]")  # a byte that is no UTF-8, in Python's surrogateescape


class Csv(TextFormat):
    name = "csv"
    endings = endings(".csv", ".tsv")
    rank = 1
    is_typed = False

    def text(self, spec: Input, name: str) -> Text:
        return CsvText(spec, name)


class CsvText(Text):
    wanted = "CSV"

    def __init__(self, spec: Input, name: str) -> None:
        super().__init__(spec, name)
        stem = name[: name.rindex(".")] if codec_of(name) else name
        self._delimiter = spec.csv.delimiter or ("\t" if stem.lower().endswith(".tsv") else ",")
        self._quote = spec.csv.quote
        self._header: list[str] = []
        csv.field_size_limit(max(csv.field_size_limit(), min(sys.maxsize, 2 * spec.max_row_bytes)))  # 128 KiB otherwise
        self._dialect: dict[str, Any] = {"delimiter": self._delimiter, "strict": True}
        delimiter = re.escape(self._delimiter.encode())
        if self._quote is None:
            self._dialect["quoting"] = csv.QUOTE_NONE
            return
        self._dialect["quotechar"] = self._quote
        quote = re.escape(self._quote.encode())
        text = b"[^%b]*+(?:%b%b[^%b]*+)*+" % (quote, quote, quote, quote)
        self._rest = re.compile(text + rb"(?:%b(?=[%b\r\n])|(?P<open>%b?)\Z|(?P<bad>)%b)" % (quote, delimiter, quote, quote))
        self._quoted = re.compile(rb"%b(?<=[%b\n]%b)" % (quote, delimiter, quote) + self._rest.pattern)
        cell = rb"(?:%b%b%b|(?!%b)[^%b\r\n]*+)" % (quote, text, quote, quote, delimiter)
        self._sound = re.compile(cell + rb"(?:%b|\r?\Z)" % delimiter)

    def refuse(self, first: bytes) -> None:
        super().refuse(first)
        if b"\r" in first and b"\n" not in first:
            what = f"shard {self.name}: its lines end with a carriage return alone"
            raise InputError(what, "write them with newlines: tr '\\r' '\\n'")

    def start(self, texts: Iterator[bytes]) -> Iterator[bytes]:
        """Raises InputError for a header that is none."""
        raw: list[bytes] = []
        found: list[bytes] = []
        for text, cut in self.cut(seen(texts, raw.append)):
            found.append(text if (end := cut.find(b"\n")) < 0 else text[: end + 1])
            if end >= 0:
                self.preamble, self.lines = b"".join(found), 1
                self._header = self._names(self.preamble.removeprefix(BOM)[:-1])
                break
            if sum(map(len, found)) > self.spec.max_row_bytes:
                raise InputError(f"shard {self.name}: its header is over input.max_row_bytes ({self.spec.max_row_bytes})")
        return itertools.chain([b"".join(raw)[len(self.preamble) :]], texts)

    def prepare(self) -> None:
        with open_text(self.name) as stream:
            self.start(chunks(stream, self.name))

    def _names(self, line: bytes) -> list[str]:
        where = f"shard {self.name}: its header"
        try:
            names = self._cells(line)
        except BadRow as bad:
            raise InputError(f"{where}: {bad}", "write the file in UTF-8: iconv -f CP932 -t UTF-8") from None
        if line in BLANK:
            raise InputError(f"{where} is an empty line", "the first line names the columns")
        if (
            len(names) == 1
            and self.spec.csv.delimiter is None
            and (other := [one for one in OTHER_DELIMITERS if one in names[0]])
        ):
            cause = f"{where} has one column, {names[0][:80]!r}"
            raise InputError(cause, f"is {other[0]!r} between the columns? then set input.csv.delimiter")
        for number, name in enumerate(names, 1):
            if not name:
                raise InputError(f"{where}: column {number} has no name", "name it (pandas: to_csv(index=False) leaves it out)")
            if name in names[: number - 1]:
                raise InputError(f"{where}: column {name} is there twice", "give each a name of its own")
        return names

    def cut(self, texts: Iterator[bytes], whole: bool = False) -> Pairs:
        """Newlines inside of quoted cells become spaces. A cell over the cap is not held while its end is looked for; a `whole`
        text in which it has none raises InputError."""
        if self._quote is None:
            yield from super().cut(texts)
            return
        held, is_far = b"\n", False  # the byte before, and the text whose cut is not known yet; inside of a cell over the cap
        for text in itertools.chain(texts, [None]):
            held += text or b""
            cells, end = _Cells(held), len(held)
            at = 1
            while found := (self._rest.match(held, 1) if is_far else self._quoted.search(held, at)):
                is_long = is_far or found.end() - found.start() > self.spec.max_row_bytes
                is_open = found["open"] is not None and text is not None
                if is_long and (found["bad"] is not None or (text is None and whole and found["open"] == b"")):
                    self._refuse_far()
                if is_open and not is_long:
                    end = found.start()
                    break
                if is_open:
                    end = found.end() - len(found["open"])
                if is_long or (found["bad"] is None and found["open"] != b""):
                    cells.add(found.start(), min(end, found.end()))
                is_far = is_open
                if is_far or found["open"] is not None:
                    break
                at = found.end() if found["bad"] is None else found.start() + 1
            if end > 1:
                yield held[1:end], cells.cut(end)
                held = held[end - 1 :]

    def _refuse_far(self) -> NoReturn:
        cause = f"a cell that begins with {self._quote} has no end in {self.spec.max_row_bytes:,} bytes"
        remedy = "a quote in a text is written twice; for cells that are never quoted set input.csv.quote: null"
        raise InputError(f"shard {self.name}: {cause}", remedy)

    def row(self, ordinal: int, line: bytes | None) -> Row:
        try:
            if line is None:
                raise BadRow("input", f"the row is over input.max_row_bytes ({self.spec.max_row_bytes})")
            cells = self._cells(line)
            if (have := len(cells)) != (want := len(self._header)):
                where = f"column {self._header[have]}: no cell" if have < want else f"cell {want + 1} has no column"
                raise BadRow("input", f"{where}: the row has {have} cells, the header {want}")
            row: Data = dict(zip(self._header, cells, strict=True))
            row.update({name: typed(name, row[name], kind) for name, kind in self.spec.types.items() if name in row})
            return Row(ordinal, row)
        except BadRow as bad:
            return Row(ordinal, None, RowError(bad.code, f"{place(self.name, ordinal)}: {bad}"))

    def is_whole(self, line: bytes) -> bool:
        try:
            return bool(self._header) and len(self._cells(line)) == len(self._header)
        except BadRow:
            return False

    def _cells(self, line: bytes) -> list[str]:
        """Raises BadRow for bad quoting, and text that is no UTF-8."""
        text = line.decode(errors="surrogateescape")
        try:
            cells = next(csv.reader([text], **self._dialect), [])
        except csv.Error:
            what = "bad quoting" if self._quote and self._quote in text else "a carriage return inside of a cell without quotes"
            raise BadRow("input", f"{self._column(self._first_unsound(line))}: {what}") from None
        if not text.isascii():
            for index, cell in enumerate(cells):
                if _HALF.search(cell):
                    raise BadRow("input", f"{self._column(index)}: invalid UTF-8")
        return cells

    def _first_unsound(self, line: bytes) -> int:
        """The index of the first cell that is not as it should be."""
        index = at = 0
        while self._quote and at < len(line) and (found := self._sound.match(line, at)):
            index, at = index + 1, found.end()
        return index

    def _column(self, index: int) -> str:
        return f"column {self._header[index]}" if index < len(self._header) else f"cell {index + 1}"


class _Cells:
    """The copy of a text without the newlines in some cells, from byte 1 on."""

    def __init__(self, text: bytes) -> None:
        self._text, self._at = text, 1
        self._pieces: list[bytes] = []

    def add(self, start: int, end: int) -> None:
        if b"\n" in (cell := self._text[start:end]):
            self._pieces += [self._text[self._at : start], cell.replace(b"\n", b" ")]
            self._at = end

    def cut(self, end: int) -> bytes:
        return b"".join([*self._pieces, self._text[self._at : end]])


CSV = Csv()
