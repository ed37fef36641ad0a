"""Inputs that are small on disk or long in one place take memory by their chunks and rows, not by what they stand for."""

from __future__ import annotations

import bz2
import functools
import gzip
import itertools
import json
import lzma
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError
from batchgen.read import columns, heads
from batchgen.read.formats.text import base
from tests.support.reading import planned, read_all

MB = 2**20
PEAK = """
def peak():
    with open("/proc/self/status") as status:  # ru_maxrss is that of the process that began this one, where that was larger
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
"""
READ = """
import sys
from pathlib import Path
from batchgen.read import reader
from tests.support.reading import planned

before = peak()
job, columns, [shard], spans = planned(Path(sys.argv[1]))
ok, errors = 0, set()
for _, rows, kept in reader.read_spans(job, shard, spans, columns.kept, {"prompt"}):
    ok += sum(row.error is None for row in rows)
    errors |= {row.error.detail.partition(": ")[2] for row in rows if row.error}
print(ok, *sorted(errors), peak() - before, sep="\\n")
"""


def read_apart(path: Path) -> tuple[int, list[str], int]:
    """Good rows, the causes of the others, and the bytes by which a process grows that plans and reads a shard."""
    command = [sys.executable, "-c", PEAK + READ, str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    ok, *errors, grown = done.stdout.splitlines()
    return int(ok), errors, int(grown)


def test_a_line_of_a_gigabyte_is_one_error_row(tmp_path: Path) -> None:
    with open(tmp_path / "in.jsonl", "wb") as file:
        file.write(b'{"prompt": "a"}\n')
        file.truncate(1024 * MB)  # takes no room on the disk
        file.seek(0, 2)
        file.write(b'\n{"prompt": "b"}\n')
    ok, errors, grown = read_apart(tmp_path / "in.jsonl")
    assert (ok, errors) == (2, ["the line is over input.max_row_bytes (8388608)"])
    assert grown < 150 * MB


def bomb(path: Path, pieces: Iterator[bytes]) -> None:
    codec = "gzip" if path.suffix == ".gz" else "zstd"
    with pa.CompressedOutputStream(str(path), codec) as stream:
        for piece in pieces:
            stream.write(piece)


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_small_file_that_unpacks_to_much_is_read_by_chunks(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"in.jsonl.{ending}"
    row = b'{"prompt": "%s"}\n' % (b"x" * (9 * MB))
    bomb(path, (piece for _ in range(40) for piece in (row, b'{"prompt": "a"}\n', b"\n" * 9999)))
    assert path.stat().st_size < 2 * MB
    ok, errors, grown = read_apart(path)
    assert (ok, errors) == (40, ["the line is over input.max_row_bytes (8388608)"])
    assert grown < 200 * MB


def test_a_zstd_window_of_two_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl.zst"
    log = 31
    block = b'{"prompt": "a"}\n'
    raw_and_last = (len(block) << 3 | 1).to_bytes(3, "little")
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes([0, (log - 10) << 3]) + raw_and_last + block)
    with pytest.raises(InputError, match=r"in\.jsonl\.zst: damaged or unreadable: .*too much memory"):
        planned(path)
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes([0, (27 - 10) << 3]) + raw_and_last + block)
    assert [row.data for row in read_all(path)[0]] == [{"prompt": "a"}]


HEADS = """
import sys
from pathlib import Path
from tests.support.reading import make_job
from batchgen.read.columns import look
from batchgen.read.discover import discover

job = make_job(Path(sys.argv[1]))
before = peak()
found = look(job, discover(job.input))
print(int(found.bytes_per_row), peak() - before)
"""


def test_heads_of_long_rows_are_not_held(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "x" * (4 * MB)}) + "\n"
    for number in range(4):
        with gzip.open(tmp_path / f"{number}.jsonl.gz", "wt", compresslevel=1) as file:
            for _ in range(40):
                file.write(row)
    command = [sys.executable, "-c", PEAK + HEADS, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    bytes_per_row, grown = map(int, done.stdout.split())
    assert bytes_per_row == len(row)
    assert grown < 150 * MB


@pytest.mark.parametrize("shape", ["list", "list of lists", "map", "struct", "large rows", "numbers"])
def test_nested_cells_that_stand_for_gigabytes_are_error_rows(tmp_path: Path, shape: str) -> None:
    big, rows, heavy = "x" * MB, 256, 4
    counts = [512 if row % (rows // heavy) == 5 else 1 for row in range(rows)]  # a heavy cell has half a gigabyte of text
    ends = pa.array([0, *itertools.accumulate(counts)], pa.int32())
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * sum(counts), pa.int32()), [big])
    of_lists = pa.ListArray.from_arrays(ends, texts)
    column = {
        "list of lists": lambda: pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), of_lists),
        "map": lambda: pa.MapArray.from_arrays(ends, pa.array(["k"] * len(texts)), texts),
        "struct": lambda: pa.StructArray.from_arrays([of_lists], ["inner"]),
        "numbers": lambda: pa.ListArray.from_arrays(
            pa.array(np.cumsum([0, *(2 * MB if count > 1 else 10 for count in counts)]), pa.int32()),
            pa.array(np.zeros(heavy * 2 * MB + 10 * (rows - heavy), np.int64)),
        ),
    }.get(shape, lambda: of_lists)()
    table = pa.table({"prompt": [str(row) for row in range(rows)], "v": column})
    options: dict[str, Any] = {"row_group_size": 1} if shape == "large rows" else {}
    pq.write_table(table, tmp_path / "in.parquet", compression="zstd", store_schema=False, **options)
    ok, errors, grown = read_apart(tmp_path / "in.parquet")
    assert (ok, errors) == (rows - heavy, ["the row is over input.max_row_bytes (8388608)"])
    assert grown < 500 * MB


def test_heads_end_by_bytes_and_every_shard_has_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        rows: list[dict[str, Any]] = [{"prompt": "x" * 50, f"of_{number}": 1}] * 10 + [{"prompt": "", "late": 1}]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(columns, "HEAD_BYTES", 4 * 300)
    found = planned(tmp_path)[1]
    assert found.kept.names == ["prompt", "of_0", "of_1", "of_2", "of_3", "input_extra"]
    assert found.bytes_per_row == len(json.dumps({"prompt": "x" * 50, "of_0": 1})) + 1
    monkeypatch.setattr(base, "HEAD_BYTES", 0)
    assert "prompt" in planned(tmp_path, input={"max_row_bytes": 80})[1].kept.names


def test_names_beyond_the_most_columns_go_into_input_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MOST_COLUMNS", 2)
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "b": 1, "c": 2}\n{"prompt": "b", "d": 3}\n')
    rows = read_all(tmp_path / "in.jsonl")[1].to_pylist()
    assert rows == [{"prompt": "a", "b": 1, "input_extra": '{"c": 2}'}, {"prompt": "b", "b": None, "input_extra": '{"d": 3}'}]


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_a_cell_or_an_element_of_a_gigabyte_is_one_error_row(tmp_path: Path, ending: str) -> None:
    before, begin, end = {
        "csv": (b"prompt\na\n", b'"\n', b'\n"\nb\n'),
        "json": (b'[{"prompt": "a"}, ', b'{"prompt": "', b'"},\n {"prompt": "b"}]'),
    }[ending]
    with open(tmp_path / f"in.{ending}", "wb") as file:
        file.write(before + begin)
        file.truncate(1024 * MB)
        file.seek(0, 2)
        file.write(end)
    ok, errors, grown = read_apart(tmp_path / f"in.{ending}")
    what = "row" if ending == "csv" else "element"
    assert (ok, errors) == (2, [f"the {what} is over input.max_row_bytes (8388608)"])
    assert grown < 250 * MB


@pytest.mark.parametrize("ending", ["bz2", "xz"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "json"])
def test_other_small_files_that_unpack_to_much_are_read_by_pieces(tmp_path: Path, kind: str, ending: str) -> None:
    path = tmp_path / f"in.{kind}.{ending}"
    long, short = b"x" * (9 * MB), b"a"
    begin, row, between, last = {
        "jsonl": (b"", b'{"prompt": "%s"}', b"\n", b"\n"),
        "csv": (b"prompt\n", b'"%s\n"', b"\n", b"\n"),
        "json": (b"[", b'{"prompt": "%s"}', b",", b"]"),
    }[kind]
    pack = bz2.compress if ending == "bz2" else functools.partial(lzma.compress, preset=0)
    path.write_bytes(pack(begin + between.join(row % text for _ in range(20) for text in (long, short)) + last))
    ok, errors, grown = read_apart(path)
    what = {"jsonl": "line", "csv": "row", "json": "element"}[kind]
    assert (ok, errors) == (20, [f"the {what} is over input.max_row_bytes (8388608)"])
    assert grown < 250 * MB


def test_a_dictionary_of_xz_that_takes_gigabytes_is_refused(tmp_path: Path) -> None:
    unpadded = lzma.compress(b'{"prompt": "a"}\n')
    header = bytes([2, 0, 0x21, 1, 39, 0, 0, 0])  # LZMA2 with a dictionary of 3 GiB
    block = unpadded[:12] + header + zlib.crc32(header).to_bytes(4, "little") + unpadded[24:]
    (tmp_path / "in.jsonl.xz").write_bytes(block)
    with pytest.raises(InputError, match=r"in\.jsonl\.xz: damaged or unreadable: .*[Mm]emory"):
        planned(tmp_path / "in.jsonl.xz")
    (tmp_path / "in.jsonl.xz").write_bytes(lzma.compress(b'{"prompt": "a"}\n', preset=9 | lzma.PRESET_EXTREME))
    assert [row.data for row in read_all(tmp_path / "in.jsonl.xz")[0]] == [{"prompt": "a"}]
