"""One JSON array a file, plain or compressed: each element, an object or a string, is a row, and is read as a JSONL line is.

numpy finds the commas between the elements. So an element is parsed from its own bytes (integers of any size, the errors of
JSONL), and a span from the middle of a file is read without what precedes it. A parser of events (ijson) gives neither."""

import itertools
import re
from collections.abc import Iterator

import numpy as np

from batchgen.errors import BadRow, InputError, RowError, place
from batchgen.job.input import Input
from batchgen.read.formats.text.base import TextFormat
from batchgen.read.formats.text.jsonl import JSONL, parse
from batchgen.read.formats.text.rows import Text
from batchgen.read.formats.text.stream import BOM, Pairs, chunks, endings, open_text, peek
from batchgen.records import Row

PIECE = 2**20  # bytes that are looked at at once: about ten times as much memory
MOST_SPACE = 2**16  # bytes of white space before the first element
SPACE = b" \t\r\n"
_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\[[ \t\r\n]*(?=[^ \t\r\n])")
_NO_ELEMENT = re.compile(rb"\n[ \t]*\n")
_QUOTE, _BACKSLASH, _COMMA = b'"'[0], b"\\"[0], b","[0]
_STEP = np.zeros(256, np.int8)  # of the depth
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1
_TELLING = _STEP != 0
_TELLING[[_QUOTE, _COMMA]] = True
_AS_SPACE = bytes.maketrans(b"\r\n", b"  ")
_AS_END = bytes.maketrans(SPACE, b"\n\n\n\n")


class JsonArray(TextFormat):
    """`.json` is an array or JSONL: the content decides."""

    name = "json"
    endings = endings(".json")
    rank = 2  # beside data of another format it is metadata

    def text(self, spec: Input, name: str) -> Text:
        return ArrayText(spec, name)

    def of_content(self, name: str) -> str:
        with open_text(name) as stream:
            first, _ = peek(chunks(stream, name, MOST_SPACE), MOST_SPACE)
        return self.name if first.removeprefix(BOM).lstrip(SPACE).startswith(b"[") else JSONL.name


class ArrayText(Text):
    wanted = "a JSON array"

    def start(self, texts: Iterator[bytes]) -> Iterator[bytes]:
        first, texts = peek(texts, MOST_SPACE)
        if (found := _START.match(first)) is None:
            what = "is empty" if not first.strip(BOM + SPACE) else "is no JSON array"
            raise InputError(f"shard {self.name}: it {what}", "for one JSON object per line set input.format: jsonl")
        self.preamble = found[0]
        left = len(found[0])
        for text in texts:
            if left < len(text):
                return itertools.chain([text[left:]], texts)
            left -= len(text)
        return texts

    def cut(self, texts: Iterator[bytes], whole: bool = False) -> Pairs:
        """Commas between elements become newlines, and so do the array's end and the white space after it."""
        state = _State(self.name)
        for text in texts:
            for at in range(0, len(text), PIECE):
                piece = text[at : at + PIECE]
                yield piece, state.cut(piece)
        if whole and not state.ended:
            cause = f"the array has no end, {state.elements + 1:,} elements were begun"
            raise InputError(f"shard {self.name}: damaged JSON: {cause}", "it is cut short, or a quote or bracket is missing")

    def row(self, ordinal: int, line: bytes | None) -> Row:
        try:
            if line is None:
                raise BadRow("input", f"the element is over input.max_row_bytes ({self.spec.max_row_bytes})")
            return Row(ordinal, parse(line.strip(SPACE)))
        except BadRow as bad:
            return Row(ordinal, None, RowError(bad.code, f"{place(self.name, ordinal)}: {bad}"))


class _State:
    """Where a text is, from the first byte of an element on: `_depth` brackets inside of it, `_inside` a string, after a
    backslash that escapes what follows."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._depth, self._inside, self._escaped = 0, False, False
        self._blank, self.elements, self.ended = True, 0, False  # no byte of an element yet; elements with an end

    def cut(self, text: bytes) -> bytes:
        """The copy of a piece. Raises InputError for a comma without an element, and text after the array's end."""
        if self.ended:
            return self._after(text)
        data = np.frombuffer(text, np.uint8)
        telling = _TELLING[data]
        telling[self._escapes(data)] = False
        places = np.flatnonzero(telling)
        found = data[places]
        quotes = np.cumsum(found == _QUOTE) + self._inside
        steps = np.where(quotes % 2, 0, _STEP[found])
        depths = self._depth + np.cumsum(steps)
        ends = places[(depths < 0) & (steps < 0)]
        upto = int(ends[0]) if len(ends) else len(text)
        commas = places[(depths == 0) & (found == _COMMA) & (quotes % 2 == 0)]
        commas = commas[commas < upto]
        if len(places):
            self._inside, self._depth = bool(quotes[-1] % 2), int(depths[-1])
        copy = np.frombuffer(text[:upto].translate(_AS_SPACE), np.uint8).copy()
        copy[commas] = b"\n"[0]
        cut = copy.tobytes()
        self._check(cut)
        self.elements += len(commas)
        if not len(ends):
            return cut
        self.ended = True
        if self._blank and self.elements:
            self._refuse("a comma before the array's end")
        return cut + b"\n" + self._after(text[upto + 1 :])

    def _escapes(self, data: np.ndarray) -> np.ndarray:
        """The places of the bytes that a backslash escapes: those after an odd number of backslashes."""
        slashes = np.flatnonzero(data == _BACKSLASH)
        gaps = np.diff(slashes) != 1
        starts, ends = slashes[np.append(True, gaps)[: len(slashes)]], slashes[np.append(gaps, True)[: len(slashes)]] + 1
        lengths = ends - starts
        first = np.zeros(0, np.int64)
        if self._escaped and len(data):
            if len(starts) and starts[0] == 0:
                lengths[0] += 1
            else:
                first = np.zeros(1, np.int64)
        found: np.ndarray = np.concatenate([first, ends[lengths % 2 == 1]])
        self._escaped = bool(len(found) and found[-1] == len(data)) if len(data) else self._escaped
        inside: np.ndarray = found[found < len(data)]
        return inside

    def _check(self, cut: bytes) -> None:
        if (self._blank and cut.lstrip(b" \t").startswith(b"\n")) or _NO_ELEMENT.search(cut):
            self._refuse("a comma without an element before it")
        last = cut.rpartition(b"\n")
        self._blank = (self._blank or bool(last[1])) and not last[2].strip(b" \t")

    def _after(self, text: bytes) -> bytes:
        if text.strip(SPACE):
            self._refuse("text after the array's end")
        return text.translate(_AS_END)

    def _refuse(self, what: str) -> None:
        raise InputError(f"shard {self._name}: no JSON: {what}, after {self.elements:,} elements", "write it with a JSON library")


JSON_ARRAY = JsonArray()
