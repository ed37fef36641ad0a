"""What must hold of an output after every fault: one function, and the reader that looked on all the while."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow.parquet as pq
import xxhash

from batchgen.output import job_file, parts
from batchgen.output.format import in_arrow_memory
from batchgen.output.output import Output
from batchgen.output.plan_file import SUCCESS, Plan
from batchgen.output.store import Store


@dataclass
class Reader:
    """Reads the parts and the status of an output while others write it. What it sees must be whole, and must stay."""

    store: Store
    seen: dict[str, str] = field(default_factory=dict)
    """The digest of each part."""
    done: int = 0
    """The most rows that a status has said to be done."""
    polls: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    one_driver: bool = True
    """Whether no two drivers are at work at the same time. A driver that stood still while another took its place can still
    write _SUCCESS in the middle of the other's work."""

    def poll(self) -> None:
        listed = set(self.store.list(parts.DATA))
        assert self.seen.keys() <= listed, f"parts that are gone: {sorted(self.seen.keys() - listed)}"
        for name in sorted(listed - self.seen.keys()) + self._some():
            data = self.store.get(name)
            assert data is not None, f"{name} was listed and is not there"
            digest = xxhash.xxh3_128_hexdigest(data)
            if name not in self.seen:
                assert parts.span_of(name) is not None, f"a foreign file: {name}"
                pq.ParquetFile(in_arrow_memory(data), page_checksum_verification=True).read()
                self.seen[name] = digest
            assert self.seen[name] == digest, f"{name} changed"
        self._poll_status()
        self._poll_success()
        self.polls += 1

    def _some(self) -> list[str]:
        """Parts to read again; all of them, as long as they are few."""
        return self.dice.sample(sorted(self.seen), min(len(self.seen), 40))

    def _poll_status(self) -> None:
        before = sum(1 for _ in self.store.list(parts.DATA))
        if self.store.get(job_file.NAME) is None:
            return
        status = Output.open(self.store).status()
        after = sum(1 for _ in self.store.list(parts.DATA))
        assert before <= status["spans_done"] <= after, f"{status} said between {before} and {after} parts"
        rows = status["rows_ok"] + status["rows_error"]
        assert self.done <= rows <= status["rows_planned"], f"{status} after {self.done} rows were done"
        self.done = rows

    def _poll_success(self) -> None:
        if self.one_driver and self.store.get(SUCCESS) is not None:
            missing = self.plan().missing(parts.committed(self.store))
            assert not missing or self.store.get(SUCCESS) is None, f"_SUCCESS while {len(missing)} spans have no part"

    def plan(self) -> Plan:
        return Output.open(self.store).plan


@dataclass(frozen=True)
class Work:
    """Rows that were generated in all, and rows that may have been in flight at all kills together."""

    generated: int
    in_flight: int


def check(reader: Reader, expected: Mapping[tuple[int, int], str | None], fired: int | None, work: Work | None = None) -> None:
    """The promises, of an output whose last run ended well. `expected` are the error codes (None for ok) by shard's
    row and sample; `fired` is how many of the planned faults have really happened, None where none was planned."""
    store = reader.store
    assert fired is None or fired > 0, "no fault came about"
    reader.poll()
    assert store.get(SUCCESS) is not None
    plan = reader.plan()
    assert {parts.span_of(name) for name in reader.seen} == {span.name for span in plan.spans}, "foreign or missing parts"
    latest: dict[tuple[int, int], str | None] = {}
    tokens = 0
    for span in plan.spans:  # a retry stands after what it retries
        rows = parts.read_part(store, span.name).to_pylist()
        keys = [(row["row"], row["sample"]) for row in rows]
        assert len(set(keys)) == len(keys), f"{span.name}: a row twice"
        assert span.retry or not latest.keys() & set(keys), f"{span.name}: a row of another span"
        tokens += sum(row["completion_tokens"] for row in rows)
        latest |= {key: _status(row) for key, row in zip(keys, rows, strict=True)}
    differing = [key for key in latest.keys() | expected.keys() if latest.get(key, "none") != expected.get(key, "none")]
    assert not differing, [(key, latest.get(key, "none"), expected.get(key, "none")) for key in differing]
    output = Output.open(store)
    assert output.verify().problems == []
    status = output.status()
    failed = [code for code in expected.values() if code]
    assert status["state"] == "done"
    assert (status["rows_ok"], status["rows_error"]) == (len(expected) - len(failed), len(failed))
    assert status["completion_tokens"] == tokens
    assert status["errors"] == {code: failed.count(code) for code in sorted(set(failed))}
    if work is not None:
        assert len(expected) <= work.generated <= len(expected) + work.in_flight, f"{len(expected)} rows, {work}"


def _status(row: dict[str, object]) -> str | None:
    """The row's error code, None where it is ok; either way it is typed and answers its own prompt."""
    if row["status"] == "ok":
        assert row["error_code"] is None
        assert str(row["prompt"]) in str(row["messages"])
        assert row["response"]
        return None
    assert row["error_detail"]
    assert row["response"] is None
    return str(row["error_code"])
