"""The text of a shard, plain or compressed: its bytes from anywhere, its pieces and its lines."""

import io
import itertools
import lzma
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, cast

import pyarrow as pa

from batchgen.errors import InputError, safe_message
from batchgen.read import location
from batchgen.read.formats.content import PEEKED, refuse_other

CHUNK = 4 * 2**20  # bytes read at a time
BLANK = (b"", b"\r")
BOM = b"\xef\xbb\xbf"  # of UTF-8, at the beginning of a file
CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
XZ_MEMORY = 2**27
"""Bytes that an .xz file may ask for, as Arrow's limit for .zst; `xz -9` asks for 65 MiB, a file can ask for 4 GiB."""
Pairs = Iterator[tuple[bytes, bytes]]
"""Pieces of a text, each with a copy that is cut in its place: as long, with newlines at the ends of rows and nowhere else."""


def codec_of(name: str) -> str | None:
    return CODECS.get(os.path.splitext(name)[1].lower())


def endings(*kinds: str) -> tuple[str, ...]:
    """The endings of text files of these kinds, each plain and with a codec."""
    return tuple(kind + codec for codec in ("", *CODECS) for kind in kinds)


def open_text(name: str, offset: int = 0) -> BinaryIO:
    """The uncompressed text of a shard from byte `offset`. Raises InputError where a compressed text is shorter."""
    raw = location.open_shard(name)
    if (codec := codec_of(name)) is None:
        raw.seek(offset)
        return raw
    refuse_other(name, raw.read(PEEKED), f"{codec}-compressed", codec)
    raw.seek(0)
    stream = _Xz(raw) if codec == "xz" else pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
    if sum(map(len, chunks(cast(BinaryIO, stream), name, offset))) < offset:
        raise InputError(f"shard {name}: shorter than planned")
    return cast(BinaryIO, stream)


class _Xz(io.RawIOBase):
    """The text of .xz streams one after another, which Arrow does not read. Python's own LZMAFile takes what memory a file
    asks for."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._unpack: lzma.LZMADecompressor | None = None

    def read(self, size: int = -1) -> bytes:
        """Raises lzma.LZMAError for damaged data, EOFError for a file that is cut short."""
        while True:
            if self._unpack is None or self._unpack.eof:
                packed = (self._unpack.unused_data if self._unpack else b"") or self._raw.read(CHUNK)
                while packed and not (packed := packed.lstrip(b"\0")):  # zeros may follow a stream
                    packed = self._raw.read(CHUNK)
                if not packed:
                    return b""
                self._unpack = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
            elif not (packed := self._raw.read(CHUNK) if self._unpack.needs_input else b"") and self._unpack.needs_input:
                raise EOFError("it ends in the middle of a stream")
            if text := self._unpack.decompress(packed, size):
                return text


def chunks(stream: BinaryIO, name: str, limit: int = sys.maxsize) -> Iterator[bytes]:
    """The next `limit` bytes of a text. Raises InputError for a damaged compressed file."""
    while limit:
        try:
            chunk = stream.read(min(CHUNK, limit))
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise InputError(f"shard {name}: damaged or unreadable: {safe_message(error)}", "write it again") from None
        if not chunk:
            return
        limit -= len(chunk)
        yield chunk


def peek(texts: Iterator[bytes], size: int = PEEKED) -> tuple[bytes, Iterator[bytes]]:
    """At least the first `size` bytes of a text, where it has them, and the whole of it."""
    first: list[bytes] = []
    while sum(map(len, first)) < size and (text := next(texts, b"")):
        first.append(text)
    return b"".join(first), itertools.chain(first, texts)


def seen(texts: Iterable[bytes], see: Callable[[bytes], object]) -> Iterator[bytes]:
    for text in texts:
        see(text)
        yield text


def lines(texts: Pairs, cap: int) -> Iterator[bytes | None]:
    """The lines of a text, without their newlines; None for a line of more than `cap` bytes. At most cap bytes and a piece are
    held."""
    rest, dropped = b"", 0
    for text, cut in texts:
        pieces = text.split(b"\n") if cut is text else _split(text, cut)
        pieces[0] = rest + pieces[0]
        rest = pieces.pop()
        for piece in pieces:
            yield None if dropped + len(piece) > cap else piece
            dropped = 0
        if dropped + len(rest) > cap:
            dropped, rest = dropped + len(rest), b""
    if dropped or rest:
        yield None if dropped + len(rest) > cap else rest


def _split(text: bytes, cut: bytes) -> list[bytes]:
    """The text split where its copy has newlines."""
    ends = list(itertools.accumulate(cut.split(b"\n"), lambda end, piece: end + 1 + len(piece), initial=-1))
    return [text[start + 1 : end] for start, end in itertools.pairwise(ends)]
