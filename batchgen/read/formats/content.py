"""What a file is by its first bytes, to be named once where it is no such thing as its name says."""

import re

from batchgen.errors import InputError

PEEKED = 512  # bytes that are looked at
_MARKS = {
    b"PAR1": ("a Parquet file", "name it .parquet, or set input.format: parquet"),
    b"\x1f\x8b": ("gzip-compressed", "give its name the ending .gz"),
    b"\x28\xb5\x2f\xfd": ("zstd-compressed", "give its name the ending .zst"),
    b"\xfd7zXZ\x00": ("xz-compressed", "give its name the ending .xz"),
    b"\xff\xfe": ("UTF-16", "write it in UTF-8: iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16", "write it in UTF-8: iconv -f UTF-16 -t UTF-8"),
    b"version https://git-lfs.github.com/spec/": ("a Git LFS pointer", "fetch the file itself: git lfs pull"),
    b"%PDF-": ("a PDF document", "extract its text"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an Excel file (.xls)", "save it as CSV in UTF-8"),
    b"ARROW1\x00\x00": ("an Arrow file", "write it as Parquet"),
    b"SQLite format 3\x00": ("an SQLite database", "export the table as CSV"),
    b"Obj\x01": ("an Avro file", "write it as Parquet"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
}
_CODECS = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\x00", "bz2": b"BZh"}
_BZ2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(!doctype html|html|head\b|\?xml|error>)", re.IGNORECASE)
_UTF_16 = re.compile(rb"(?:[\t\n\r -~]\x00){8}|(?:\x00[\t\n\r -~]){8}")


def content_of(first: bytes) -> tuple[str, str] | None:
    """What a file that begins so is, and what to do; None for text, and for what nobody knows."""
    for mark, found in _MARKS.items():
        if first.startswith(mark):
            return found
    if first.startswith(b"PK\x03\x04"):
        is_excel = b"[Content_Types].xml" in first or b"xl/" in first
        return ("an Excel file (.xlsx)", "save it as CSV in UTF-8") if is_excel else ("a zip archive", "unpack it")
    if _BZ2.match(first):
        return "bz2-compressed", "give its name the ending .bz2"
    if first[257:262] == b"ustar":
        return "a tar archive", "unpack it"
    if page := _PAGE.match(first):
        what = "an XML document" if page[1].lower() in (b"?xml", b"error>") else "an HTML page"
        return what, "a download may have saved an error or login page in its place: fetch it again"
    if _UTF_16.match(first):
        return "UTF-16 without a mark", "write it in UTF-8: iconv -f UTF-16LE -t UTF-8"
    return None


def refuse_other(name: str, first: bytes, wanted: str, codec: str | None = None) -> None:
    """Raises InputError for the beginning of a file that is another thing than `wanted`, which may be what a codec makes."""
    if codec and first.startswith(_CODECS[codec]):
        return
    if (found := content_of(first)) is not None:
        raise InputError(f"shard {name}: it is {found[0]}, not {wanted}", found[1])
