"""A file that is another thing than its name says is named as what it is, once."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from batchgen.errors import InputError
from batchgen.read.formats.content import content_of
from tests.support.reading import planned

LINE = b'{"prompt": "a"}\n'


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, "text")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.jsonl"))
    return buffer.getvalue()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a"]}), buffer)
    return buffer.getvalue()


def arrow() -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"prompt": ["a"]})
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 1\n"
OTHERS = {
    "a Git LFS pointer": LFS,
    "UTF-16": (LINE.decode() * 9).encode("utf-16"),
    "UTF-16 without a mark": (LINE.decode() * 9).encode("utf-16-be"),
    "an HTML page": b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n",
    "an XML document": b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
    "a zip archive": zipped("a.jsonl"),
    "an Excel file (.xlsx)": zipped("[Content_Types].xml", "xl/workbook.xml"),
    "a tar archive": tarred(),
    "a Parquet file": parquet(),
    "an Arrow file": arrow(),
    "gzip-compressed": gzip.compress(LINE),
    "zstd-compressed": zstandard.ZstdCompressor().compress(LINE),
    "bz2-compressed": bz2.compress(LINE),
    "xz-compressed": lzma.compress(LINE),
}


NAMES = ["in.jsonl", "in.csv", "in.tsv", "in.json", "in.jsonl.gz", "in.csv.xz", "in.json.bz2", "in.parquet"]
OWN = {("in.jsonl.gz", "gzip-compressed"), ("in.csv.xz", "xz-compressed"), ("in.json.bz2", "bz2-compressed")}
OWN |= {("in.parquet", "a Parquet file")}


@pytest.mark.parametrize(("name", "what"), [(name, what) for name in NAMES for what in OTHERS if (name, what) not in OWN])
def test_a_file_is_named_as_what_it_is(tmp_path: Path, name: str, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(OTHERS[what])
    with pytest.raises(InputError) as caught:
        planned(path)
    assert str(caught.value).startswith(f"shard {path}: it is {what}, not ")
    assert "; " in str(caught.value)


@pytest.mark.parametrize("what", OTHERS)
def test_a_compressed_file_is_named_by_its_content(tmp_path: Path, what: str) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(OTHERS[what]))
    with pytest.raises(InputError, match=r"in\.jsonl\.gz: it is "):
        planned(tmp_path / "in.jsonl.gz")


@pytest.mark.parametrize(
    "text", [LINE, b"", b"\xef\xbb\xbf" + LINE, b"prompt,a\n1,2\n", b"[1]", b"BZh9 is a word\n", b"PK,b\n", b"<b>,c\n"]
)
def test_text_is_no_such_thing(text: bytes) -> None:
    assert content_of(text) is None


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"empty \(0 bytes\)"):
        planned(tmp_path / name)


def test_other_files_say_what_they_are(tmp_path: Path) -> None:
    cases = {
        "in.json": (b"", "empty (0 bytes)"),
        "in.parquet": (b"", "not a Parquet file (0 bytes)"),
        "cut.parquet": (parquet()[:-20], "not a Parquet file: it is cut short"),
        "object.json": (json.dumps({"data": [{"prompt": "a"}]}, indent=1).encode(), "it is one JSON object over several lines"),
        "mac.csv": (b"prompt,b\ra,1\rb,2\r", "its lines end with a carriage return alone"),
    }
    for name, (content, cause) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            planned(tmp_path / name)
        assert cause in str(caught.value)
