"""JSONL text becomes spans, and every line that is not blank is in one."""

import gzip
import itertools
import json

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batchgen.errors import InputError
from batchgen.read import reader
from batchgen.read.formats.content import content_of
from batchgen.read.formats.text import stream
from tests.support.planning import lines, make, make_job, touch
from tests.support.reading import read_all


def ordinals(text):
    """The rows of a JSONL text: the numbers of its lines that are not blank."""
    return [number for number, line in enumerate(text.split(b"\n")) if line not in (b"", b"\r")]


def without_half_line(text):
    """The text up to a last line that somebody may be writing."""
    head, newline, last = text.rpartition(b"\n")
    try:
        return text if last in (b"", b"\r") or isinstance(json.loads(last), dict) else head + newline
    except ValueError:
        return head + newline


def is_lines(text):
    """Whether a text does not begin as a file of another format does."""
    first, _, rest = text.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    is_indented = first.startswith(b"{") and first.rstrip().endswith((b"{", b"[", b",")) and rest[:1] in (b" ", b"\t", b'"')
    return content_of(text) is None and not first.startswith(b"[") and not is_indented


def line_count(text):
    return text.count(b"\n") + (text != b"" and not text.endswith(b"\n"))


def read_ordinals(job, shards, spans):
    parts = list(reader.read_spans(job, shards[0], spans, pa.schema([]), set())) if spans else []
    assert [(span, len(rows)) for span, rows, _ in parts] == [(span, span.rows) for span in spans]
    return [row.ordinal for _, rows, _ in parts for row in rows]


line = st.sampled_from([b"", b"\r", b'{"prompt": "a"}', b'{"prompt": "bbb"}\r', b"1", b" ", b"\r\r"]) | st.binary(
    max_size=30
).map(lambda data: data.replace(b"\n", b""))
texts = st.tuples(st.lists(line, max_size=25), st.booleans()).map(lambda t: b"\n".join(t[0]) + b"\n" * t[1])
chunks = st.sampled_from([2, 3, 7, 50, 1 << 20])


@settings(max_examples=200)
@given(text=texts, rows=st.integers(1, 7), cap=st.sampled_from([1, 30, 100, 1 << 20]), scan=chunks, chunk=chunks)
def test_spans_cover_exactly_the_lines_that_are_not_blank(tmp_path_factory, text, rows, cap, scan, chunk):
    path = tmp_path_factory.mktemp("plan") / "in.jsonl"
    path.write_bytes(text)
    half, text = len(text), without_half_line(text)
    assume(ordinals(text) and is_lines(text))
    job = make_job(path, spans={"rows": rows, "bytes": cap})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK", scan)
        shards, spans = make(job)
        patch.setattr(stream, "CHUNK", chunk)
        assert read_ordinals(job, shards, spans) == ordinals(text)
    assert all(1 <= span.rows <= rows for span in spans)
    assert all(one.end <= two.start and one.offset + one.bytes <= two.offset for one, two in itertools.pairwise(spans))
    assert all(span.rows == sum(span.start <= n < span.end for n in ordinals(text)) for span in spans)
    assert (shards[0].rows, shards[0].lines, shards[0].text_bytes) == (len(ordinals(text)), line_count(text), len(text))
    assert shards[0].rest == half - len(text)


@settings(max_examples=200)
@given(text=texts, more=texts, newline=st.sampled_from([b"", b"\n", b"\r\n"]), rows=st.integers(1, 5), scan=chunks)
def test_appended_lines_add_spans_for_themselves_only(tmp_path_factory, text, more, newline, rows, scan):
    assume(ordinals(without_half_line(text)) and is_lines(text))
    path = tmp_path_factory.mktemp("grow") / "in.jsonl"
    path.write_bytes(text)
    job = make_job(path, spans={"rows": rows})
    whole = text + newline + more
    is_free = without_half_line(text) != text or text.endswith(b"\n")  # to be continued by anything
    assume(is_free or whole[len(text) :].startswith((b"\n", b"\r\n")) or whole == text)
    new = [number for number in ordinals(without_half_line(whole)) if number >= line_count(without_half_line(text))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK", scan)
        before, first = make(job)
        path.write_bytes(whole)
        touch(path)
        after, added = make(job, before)
        assert read_ordinals(job, after or before, added) == new
    assert all(span.start >= before[0].lines and span.rows <= rows for span in added)
    assert not {span.name for span in first} & {span.name for span in added}


def test_a_blank_line_is_not_a_row(tmp_path):
    (tmp_path / "in.jsonl").write_text('\n{"prompt": 1}\n\n\r\n{"prompt": 2}\n\n')
    [shard], [span] = make(make_job(tmp_path / "in.jsonl"))
    assert (shard.rows, shard.lines, span.start, span.end, span.rows) == (2, 6, 0, 6, 2)


def test_spans_are_cut_by_rows(two_shards):
    shards, spans = make(make_job(two_shards, spans={"rows": 2}))
    assert [(span.shard, span.start, span.end, span.rows) for span in spans] == [(0, 0, 2, 2), (0, 2, 3, 1), (1, 0, 2, 2)]
    assert [(shard.index, shard.name, shard.rows) for shard in shards] == [
        (0, f"{two_shards}/a.jsonl", 3),
        (1, f"{two_shards}/b.jsonl", 2),
    ]


def test_spans_are_cut_by_bytes_and_hold_at_least_a_row(two_shards):
    _, spans = make(make_job(two_shards, spans={"bytes": 1}))
    size = len(lines(1))
    assert [(span.rows, span.offset, span.bytes) for span in spans[:3]] == [(1, 0, size), (1, size, size), (1, 2 * size, size)]


@pytest.mark.parametrize("cap", [10, 15, 16, 40, 1000])
def test_a_span_is_over_its_bytes_by_less_than_a_line(tmp_path, cap):
    (tmp_path / "in.jsonl").write_text(lines(*range(100)))
    _, spans = make(make_job(tmp_path / "in.jsonl", spans={"rows": 1000, "bytes": cap}))
    assert all(cap <= span.bytes < cap + len(lines(10)) for span in spans[:-1])
    assert sum(span.rows for span in spans) == 100


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b'[\n {"prompt": "a"},\n {"prompt": "b"}\n]', "it is one JSON array"),
        (b'[{"prompt": "a"}, {"prompt": "b"}]', "it is one JSON array"),
        (b'\xef\xbb\xbf  [{"prompt": "a"},\n{"prompt": "b"}]\n', "it is one JSON array"),
        (b"PAR1" + bytes(20), "it is a Parquet file"),
        (gzip.compress(b'{"prompt": "a"}\n', mtime=0), "it is gzip-compressed"),
        ('{"prompt": "a"}\n'.encode("utf-16"), "it is UTF-16"),
    ],
)
def test_a_file_that_is_no_jsonl_as_a_whole_is_one_message(tmp_path, text, cause):
    (tmp_path / "in.jsonl").write_bytes(text)
    with pytest.raises(InputError, match=rf"^shard .*in\.jsonl: {cause}"):
        make(make_job(tmp_path / "in.jsonl"))


def test_lines_that_are_lists_are_error_rows(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'[{"prompt": "a"}]\n{"prompt": "b"}\n')
    assert [row.error is None for row in read_all(tmp_path / "in.jsonl")[0]] == [False, True]
