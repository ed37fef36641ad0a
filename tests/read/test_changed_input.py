"""The input that is read is the input that was planned: what changed meanwhile is refused by name."""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError, OutputConflict
from batchgen.plan import plan
from batchgen.read import reader
from batchgen.read.formats import parquet
from batchgen.read.location import is_same
from tests.support.finished import Finished
from tests.support.planning import make, make_job, touch
from tests.support.reading import planned

ROWS = 40


def jsonl(words: list[str]) -> bytes:
    return "".join(f'{{"prompt": "{word}"}}\n' for word in words).encode()


def parquet_of(**options: Any) -> Callable[[list[str]], bytes]:
    def written(words: list[str]) -> bytes:
        sink = pa.BufferOutputStream()
        table = pa.table({"prompt": words, "other": [str(n) for n in range(len(words))]})
        pq.write_table(table, sink, row_group_size=16, write_statistics=False, **options)
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]

    return written


PLAIN = parquet_of(compression="none", use_dictionary=False)
KINDS: dict[str, Callable[[list[str]], bytes]] = {
    "in.jsonl": jsonl,
    "in.jsonl.gz": lambda words: gzip.compress(jsonl(words), mtime=0),
    "in.parquet": PLAIN,
    "checked.parquet": parquet_of(compression="none", use_dictionary=False, write_page_checksum=True),
    "zstd.parquet": parquet_of(compression="zstd"),
}
WORDS = [f"row {number:04d}" for number in range(ROWS)]
OTHERS = [word.replace("row 0020", "now 0020") for word in WORDS]  # of the same length


def read(path: Path, change: Callable[[], object], **sections: Any) -> int:
    """How many rows are read after a change that follows the plan."""
    job, columns, [shard], spans = planned(path, spans={"rows": 8}, **sections)
    change()
    needed = set(columns.needed)
    return sum(len(rows) for _, rows, _ in reader.read_spans(job, shard, spans, columns.kept, needed))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("change", ["edited", "longer", "shorter", "replaced", "empty", "gone"])
def test_a_shard_that_changed_after_the_plan_is_refused_by_name(tmp_path: Path, name: str, change: str) -> None:
    path = tmp_path / name
    path.write_bytes(KINDS[name](WORDS))
    made = {
        "edited": KINDS[name](OTHERS),
        "longer": KINDS[name](["another", *WORDS]),
        "shorter": path.read_bytes()[:-200],
        "replaced": KINDS[name](WORDS[::-1]),
        "empty": b"",
    }

    def write() -> None:
        if change == "gone":
            path.unlink()
        else:
            path.write_bytes(made[change])
            touch(path)

    with pytest.raises(InputError, match=rf"^shard .*{name}: "):
        read(path, write)


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_text_that_is_edited_is_found_even_where_size_and_time_stay(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(KINDS[name](WORDS))
    with pytest.raises(InputError, match=r"lines 17 to 24 are not what was planned: it changed"):
        read(path, lambda: edit_unseen(path, KINDS[name](OTHERS)))


def edit_unseen(path: Path, data: bytes) -> None:
    """Write a file in place, and give it back the time that it had."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # which ticks
        path.write_bytes(data)
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))


def test_pages_that_are_edited_are_found_even_where_size_and_time_stay(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(PLAIN(WORDS))
    edited = path.read_bytes().replace(WORDS[20].encode(), WORDS[20].upper().encode())
    assert len(edited) == path.stat().st_size
    assert edited != path.read_bytes()
    with pytest.raises(InputError, match=r"in\.parquet: it is not what was planned: it changed"):
        read(path, lambda: edit_unseen(path, edited))


def test_a_saved_dataset_that_is_edited_is_found_even_where_size_and_time_stay(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"prompt": WORDS}).save_to_disk(str(tmp_path / "set"))
    [path] = (tmp_path / "set").glob("*.arrow")
    edited = path.read_bytes().replace(WORDS[20].encode(), WORDS[20].upper().encode())
    assert edited != path.read_bytes()
    source = {"format": "dataset"}
    assert read(tmp_path / "set", lambda: path.chmod(0o600), input=source) == ROWS
    with pytest.raises(InputError, match=r"set: it is not what was planned: it changed"):
        read(tmp_path / "set", lambda: edit_unseen(path, edited), input=source)


def test_a_change_of_rights_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(PLAIN(WORDS))
    assert read(path, lambda: path.chmod(0o600)) == ROWS


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10@1.2.3", "10@1.2.3", True),
        ("10@1.2.3", "10@1.2.4", False),
        ("10@1.2.3", "10@1.7.4", True),  # a copy on another node
        ("10@1.2.3", "11@1.2.3", False),
        ("10", "10@1.2.3", True),  # a plan of an earlier release
        ("10", "11@1.2.3", False),
        ('"tag@1.2.3"', '"tag@1.2.4"', False),
    ],
)
def test_versions_of_one_inode_are_compared_to_the_last_change(one: str, other: str, same: bool) -> None:
    assert is_same((5, one), (5, other)) is is_same((5, other), (5, one)) is same
    assert not is_same((5, one), (6, other))


@pytest.mark.parametrize("name", KINDS)
def test_the_same_content_written_again_is_the_planned_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(KINDS[name](WORDS))
    assert read(path, lambda: touch(path)) == ROWS


def test_lines_that_are_appended_after_the_plan_wait_for_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl(WORDS))
    assert read(path, lambda: path.write_bytes(jsonl([*WORDS, "later"]))) == ROWS


def test_pages_that_nobody_reads_may_change(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(PLAIN(WORDS))

    def edit(before: bytes, after: bytes) -> None:
        data = path.read_bytes()
        assert data.count(before) == 1
        path.write_bytes(data.replace(before, after))
        touch(path)

    number, other = (b"\x02\x00\x00\x00" + digits for digits in (b"37", b"73"))
    assert read(path, lambda: edit(number, other), input={"keep": ["prompt"]}) == ROWS
    with pytest.raises(InputError, match="it is not what was planned: it changed"):
        read(path, lambda: edit(other, number))


def test_a_file_that_is_edited_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 8)
    path = tmp_path / "in.parquet"
    path.write_bytes(PLAIN(WORDS))
    job, columns, [shard], spans = planned(path, spans={"rows": 8})
    parts = reader.read_spans(job, shard, spans, columns.kept, set(columns.needed))
    next(parts)
    path.chmod(0o600)
    next(parts)
    edit_unseen(path, path.read_bytes().replace(WORDS[20].encode(), WORDS[20].upper().encode()))
    with pytest.raises(InputError, match=r"in\.parquet: it is not what was planned: it changed"):
        list(parts)


@pytest.mark.parametrize("name", KINDS)
def test_the_next_run_refuses_what_was_edited_and_takes_what_was_only_touched(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(KINDS[name](WORDS))
    job = make_job(path, spans={"rows": 8})
    known, _ = make(job)
    touch(path)
    assert make(job, known) == ([], [])
    path.write_bytes(KINDS[name](OTHERS))
    touch(path)
    with pytest.raises(OutputConflict, match=rf"^shard .*{name} is not what was planned: its rows changed"):
        make(job, known)


def test_an_object_that_is_put_again_while_it_is_read_is_refused(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchgen.read.location.BUFFER", 64)
    for name in ("in.jsonl", "in.parquet", "zstd.parquet"):
        key, made = f"changed-{name}", KINDS[name]
        s3.client.put_object(Bucket=s3.bucket, Key=key, Body=made(WORDS))
        job, columns, [shard], spans = planned(
            Path(f"{s3.url}/{key}".replace("s3://", "s3:/")), spans={"rows": 8}, input={"path": f"{s3.url}/{key}"}
        )
        parts = reader.read_spans(job, shard, spans, columns.kept, set(columns.needed))
        seen = [row.data for row in next(parts)[1]]
        s3.client.put_object(Bucket=s3.bucket, Key=key, Body=made(OTHERS))
        with contextlib.suppress(InputError):  # unless all was read before the other was there
            for _, rows, _ in parts:
                seen += [row.data for row in rows]
        assert [row["prompt"] for row in seen if row] == WORDS[: len(seen)]
        with pytest.raises(InputError, match="changed"):
            list(reader.read_spans(job, shard, spans, columns.kept, set(columns.needed)))


def told(done: Finished) -> list[str]:
    made = done.prepared
    return plan.half_lines(plan.freeze_plan(made.job, done.store, made.found, made.columns).shards)


def test_a_half_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    """A writer is in the middle of a line when the job runs, twice, and ends it before the third run."""
    done = Finished(tmp_path, ['{"prompt": "a"}'], spans={"rows": 1}, sampling={"n": 1}, engine={"kind": "echo"})
    path = tmp_path / "in.jsonl"
    with path.open("a") as file:
        file.write('{"prompt": "the writer is in the mid')
    assert done.run() == 0
    assert told(done) == [f"shard {path}: its last line is not whole (36 bytes): it waits for a later run"]
    with path.open("a") as file:
        file.write('dle"}\n{"prompt": "and goes')
    assert done.run() == 1
    assert told(done) == [f"shard {path}: its last line is not whole (20 bytes): it waits for a later run"]
    with path.open("a") as file:
        file.write(' on"}')  # whole, if without a newline
    assert done.run() == 1
    assert told(done) == []
    assert [row["messages"][0]["content"] for row in done.rows()] == ["a", "the writer is in the middle", "and goes on"]
    assert done.output.verify().problems == []


@pytest.mark.parametrize(
    ("last", "rows"),
    [
        ('{"prompt": "b"}', 2),
        ('{"prompt": "b"} \r', 2),
        ('{"prompt": "\\ud800"}', 2),
        ('{"prompt": 1e999}', 2),
        ('{"a": ' * 3000 + "1" + "}" * 3000, 2),
        ("\r", 1),
        ('{"prompt": "b"', 1),
        ('{"prompt": "b\\', 1),
        ("[1, 2]", 1),
        ('{"prompt": "' + "b" * 5000 + '"}', 1),
        ("nu", 1),
    ],
)
def test_only_a_last_line_that_is_a_whole_object_is_a_row(tmp_path: Path, last: str, rows: int) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n' + last)
    cap = len(last) if "prompt" not in last or rows == 2 else 4000
    job = make_job(tmp_path / "in.jsonl", input={"max_row_bytes": max(cap, 20)})
    [shard], _ = make(job)
    assert (shard.rows, shard.rest) == (rows, 0 if rows == 2 or last == "\r" else len(last))


def test_an_input_of_a_half_line_alone_has_no_rows_yet(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "the writer')
    with pytest.raises(InputError, match="no rows in it"):
        make(make_job(tmp_path / "in.jsonl"))
