"""Formats whose shards are text. Spans are ranges of a shard's uncompressed text; they are read alone, have digests, and grow."""

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pyarrow as pa
import xxhash

from batchgen.errors import InputError
from batchgen.job.input import Input
from batchgen.read.columns import carried_columns, conform
from batchgen.read.formats import Format, Found, Measured, Planned, RowsOf, SpanRows, changed
from batchgen.read.formats.text.rows import Text
from batchgen.read.formats.text.spans import scan
from batchgen.read.formats.text.stream import BLANK, chunks, codec_of, lines, open_text, peek, seen
from batchgen.read.partitions import folders_of
from batchgen.records import Data, Shard, Span

HEAD_BYTES = 2**26  # of a shard's text, and a row more, are looked at for its columns
COMPRESSION = 4.0  # assumed bytes of text per byte of a compressed shard; good enough for the sizes of spans


class TextFormat(Format):
    @abstractmethod
    def text(self, spec: Input, name: str) -> Text:
        """How the text of a shard is cut and read."""

    def folders(self, spec: Input, name: str) -> Mapping[str, object]:
        return folders_of(spec, name)

    def head(self, spec: Input, name: str, rows: int) -> Iterator[tuple[Data, int]]:
        text = self.text(spec, name)
        with open_text(name) as stream:
            first, texts = peek(chunks(stream, name, HEAD_BYTES + spec.max_row_bytes))
            text.refuse(first)
            found = lines(text.cut(text.start(texts)), spec.max_row_bytes)
            for line in itertools.islice(found, rows):
                if line and line not in BLANK and (data := text.row(text.lines, line).data) is not None:
                    yield data, len(line) + 1

    def measure(self, spec: Input, shard: Shard, found: Found, bytes_per_row: float, columns: list[str] | None) -> Measured:
        text_bytes = found.size * (COMPRESSION if codec_of(shard.name) else 1.0)

        def left(offset: int) -> float:
            return (text_bytes - offset) / bytes_per_row

        def plan(rows_of: RowsOf, most: int) -> Planned | None:
            try:
                now, spans = scan(shard, found, self.text(spec, found.name), lambda offset: rows_of(left(offset)), most)
            except InputError as error:
                raise (changed(shard) if shard.digest else error) from None
            return (now, spans) if spans or not shard.digest or now.rest != shard.rest else None

        return Measured(max(0, int(left(shard.text_bytes))), plan)

    def read(self, spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
        text = self.text(spec, shard.name)
        text.prepare()
        known = needed | carried_columns(kept)
        folders = {name: value for name, value in self.folders(spec, shard.name).items() if name in known}
        with open_text(shard.name, spans[0].offset) as stream:
            for span in spans:
                digest = xxhash.xxh3_64()
                texts = seen(chunks(stream, shard.name, span.bytes), digest.update)
                numbered = enumerate(lines(text.cut(texts), spec.max_row_bytes), span.start)
                rows = [text.row(ordinal, line) for ordinal, line in numbered if line not in BLANK]
                if len(rows) != span.rows or span.digest not in ("", digest.hexdigest()):
                    what = f"shard {shard.name}: lines {span.start + 1} to {span.end} are not what was planned: it changed"
                    raise InputError(what, "restore it, or choose another output.path")
                carried = conform([{**folders, **(row.data or {})} for row in rows], kept)
                yield span, [replace(row, data={**folders, **row.data}) if folders and row.data else row for row in rows], carried

    def is_sequential(self, shard: Shard) -> bool:
        return codec_of(shard.name) is not None
