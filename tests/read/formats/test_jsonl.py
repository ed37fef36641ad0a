"""JSONL becomes rows, and a bad line is one error row."""

import gzip
import math
import os

import pytest
import zstandard

from batchgen.errors import BAD_JOB, InputError
from batchgen.read import reader
from batchgen.read.formats.text import stream as text
from batchgen.records import Shard, Span
from tests.support.reading import NONE, job_of, planned, read_all

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def read_text(path, content, kept=NONE, rows=None, **fields):
    """All rows of `content` as the JSONL file `path`, read as one span; `rows` of its lines are not blank."""
    path.write_bytes(content)
    count = len(content.splitlines()) if rows is None else rows
    span = Span(0, 0, content.count(b"\n") + (not content.endswith(b"\n")), count, 0, len(content))
    shard = Shard(0, str(path), "jsonl", len(content), "", "", span.end, count)
    [(_, found, table)] = reader.read_spans(job_of(**fields), shard, [span], kept, set())
    return found if kept is NONE else (found, table)


@pytest.mark.parametrize("ending", PACK)
def test_rows_are_read_from_plain_and_compressed_text(tmp_path, ending):
    path = tmp_path / f"in.jsonl{ending}"
    path.write_bytes(PACK[ending](b'{"prompt": "a"}\n\n{"prompt": "b"}\r\n{"prompt": "c"}'))
    rows, _ = read_all(path)
    assert [(row.ordinal, row.data, row.error) for row in rows] == [
        (0, {"prompt": "a"}, None),
        (2, {"prompt": "b"}, None),
        (3, {"prompt": "c"}, None),
    ]


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_a_span_in_the_middle_of_a_file_is_read_alone(tmp_path, monkeypatch, ending, chunk):
    path = tmp_path / f"in.jsonl{ending}"
    path.write_bytes(PACK[ending](b"".join(b'{"prompt": %d}\n' % number for number in range(20))))
    monkeypatch.setattr(text, "CHUNK", chunk)
    job, columns, [shard], spans = planned(path, spans={"rows": 3})
    [(span, rows, _)] = reader.read_spans(job, shard, spans[2:3], columns.kept, set())
    assert (span, [row.ordinal for row in rows]) == (spans[2], [6, 7, 8])
    assert [row.data for row in rows] == [{"prompt": 6}, {"prompt": 7}, {"prompt": 8}]


def test_compressed_frames_one_after_another_are_one_text(tmp_path):
    for ending in (".gz", ".zst"):
        path = tmp_path / f"in.jsonl{ending}"
        path.write_bytes(PACK[ending](b'{"prompt": 1}\n') + PACK[ending](b'{"prompt": 2}\n'))
        assert [row.data["prompt"] for row in read_all(path)[0]] == [1, 2]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b'{"prompt": "x"', "invalid JSON: "),
        (b"nonsense", "invalid JSON: "),
        (b"  ", "invalid JSON: "),
        (b'{"prompt": "\\ud800"}', "invalid JSON: "),
        (b"[" * 50_000, "JSON of more than 200 levels"),
        (b'{"a": ' * 3000 + b"1" + b"}" * 3000, "JSON of more than 200 levels"),
        (b'{"prompt": "\xff"}', "invalid UTF-8 at byte 13"),
        (b'["prompt"]', "expected a JSON object, got list"),
        (b"null", "expected a JSON object, got NoneType"),
        (b"NaN", "expected a JSON object, got float"),
        (b'{"prompt": "' + b"x" * 100_000 + b'"}', "the line is over input.max_row_bytes (60000)"),
    ],
)
def test_a_bad_line_is_one_error_row_between_intact_neighbours(tmp_path, line, cause):
    path = tmp_path / "in.jsonl"
    before, bad, after = read_text(path, b'{"prompt": 1}\n' + line + b'\n{"prompt": 3}\n', max_row_bytes=60_000)
    assert (before.data, after.data, after.ordinal) == ({"prompt": 1}, {"prompt": 3}, 2)
    assert (bad.ordinal, bad.data, bad.error.code) == (1, None, "input")
    assert bad.error.detail.startswith(f"{path}:2: {cause}")


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_cap_is_on_the_line_without_its_newline(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(text, "CHUNK", chunk)
    fits, over = b'{"prompt": "0123"}', b'{"prompt": "01234"}'
    rows = read_text(tmp_path / "in.jsonl", b"\n".join([fits, over, fits, over]), max_row_bytes=len(fits))
    assert [row.data for row in rows] == [{"prompt": "0123"}, None, {"prompt": "0123"}, None]


def test_a_byte_order_mark_starts_a_file_and_no_other_line(tmp_path):
    mark = b"\xef\xbb\xbf"
    first, second = read_text(tmp_path / "in.jsonl", mark + b'{"prompt": 1}\n' + mark + b'{"prompt": 2}\n')
    assert (first.data, second.data) == ({"prompt": 1}, None)
    assert second.error.detail.startswith(f"{tmp_path}/in.jsonl:2: invalid JSON: ")


def test_nan_and_infinity_are_numbers(tmp_path):
    [row] = read_text(tmp_path / "in.jsonl", b'{"a": NaN, "b": Infinity, "c": -Infinity}\n')
    assert math.isnan(row.data["a"])
    assert (row.data["b"], row.data["c"]) == (math.inf, -math.inf)


def test_a_carriage_return_is_not_part_of_a_row(tmp_path):
    rows = read_text(tmp_path / "in.jsonl", b'{"prompt": "a"}\r\n\r\n{"prompt": "b"}\r\n', rows=2)
    assert [(row.ordinal, row.data) for row in rows] == [(0, {"prompt": "a"}), (2, {"prompt": "b"})]


def test_fewer_rows_than_planned_are_an_input_error(tmp_path):
    path = tmp_path / "in.jsonl"
    with pytest.raises(InputError, match=r"in\.jsonl: lines 1 to 2 are not what was planned: it changed; restore") as caught:
        read_text(path, b'{"prompt": 1}\n\n', rows=2)
    assert caught.value.exit_code == BAD_JOB


@pytest.mark.parametrize(("ending", "cut"), [(".gz", 0.5), (".zst", 0.5), (".gz", 0.9), (".zst", 0.9)])
def test_a_truncated_compressed_shard_is_an_input_error_that_names_it(tmp_path, ending, cut):
    path = tmp_path / f"in.jsonl{ending}"
    whole = PACK[ending](b"".join(b'{"prompt": "%s"}\n' % os.urandom(30).hex().encode() for _ in range(9000)))
    path.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(InputError, match=rf"^shard .*in\.jsonl\{ending}: damaged or unreadable: .*; write it again$"):
        read_all(path)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_shard_that_is_not_compressed_as_its_name_says_is_an_input_error(tmp_path, ending):
    path = tmp_path / f"in.jsonl{ending}"
    path.write_bytes(b'{"prompt": 1}\n')
    with pytest.raises(InputError, match=rf"^shard .*in\.jsonl\{ending}: damaged or unreadable: .*; write it again$"):
        read_all(path)
