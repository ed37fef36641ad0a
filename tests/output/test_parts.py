"""Completions become the bytes of a part, and a part becomes visible once."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import RowError
from batchgen.job.sampling import check_sampling
from batchgen.output import parts
from batchgen.output.store import LocalStore
from batchgen.read.schemas import carried_name
from batchgen.records import Completion, Counts
from batchgen.records.columns import AFTER_INPUT, BEFORE_INPUT, output_schema
from batchgen.render.blocks import prompt_schema

NAMES = ("verbosity", "humor")
BEFORE, AFTER = ([column.name for column in columns if column.is_of("generate")] for columns in (BEFORE_INPUT, AFTER_INPUT))
ASKED_FOR = {column.name for column in AFTER_INPUT if column.optional} - {"attributes"}
KEPT = pa.table({"lang": ["en", "ja"], "input_status": ["draft", "final"]})
SPAN = "000000-000000000003-000000000005"


def prompts(attributes: tuple[str, ...] = NAMES) -> pa.Table:
    """Two rows (ordinals 3 and 4) of two variants."""
    rows = [
        {
            "source": row,
            "row": 3 + row,
            "variant": variant,
            "id": f"q{row}",
            "attributes": {"verbosity": variant, "humor": 0} if attributes else None,
            "turns": [],
            "token_ids": [1, 2],
            "sampling": dict(check_sampling({"seed": 10 * row + variant})),
        }
        for row in range(2)
        for variant in range(2)
    ]
    return pa.Table.from_pylist(rows, prompt_schema(attributes))


def completion(prompt: int, sample: int = 0, **changes: Any) -> Completion:
    said = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"answer {prompt}.{sample}"}
    made = Completion(prompt, sample, said, f"answer {prompt}.{sample}", "stop", 5, 2, -1.5, "abc", 0.25, 1)
    return replace(made, **changes)


def failed(prompt: int, code: Any = "input", sample: int = 0) -> Completion:
    blank = {"messages": None, "response": None, "finish_reason": None, "prompt_tokens": 0, "completion_tokens": 0}
    return completion(
        prompt, sample, **blank, cumulative_logprob=None, prompt_hash=None, error=RowError(code, f"in.jsonl:{prompt}: no")
    )


def part(completions: list[Completion], kept: pa.Table = KEPT, attributes: tuple[str, ...] = NAMES) -> bytes:
    schema, footer = output_schema(kept.schema, attributes), parts.footer_of(completions)
    return parts.encode_part(prompts(attributes), kept, completions, schema, "in.jsonl", "tiny", footer)


def table(data: bytes) -> pa.Table:
    return pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True).read()


def test_the_columns_of_a_part_are_the_schemas_in_its_order() -> None:
    schema = table(part([completion(0)])).schema
    assert schema.equals(output_schema(KEPT.schema, NAMES))
    assert schema.names == [*BEFORE, "lang", "input_status", *(n for n in AFTER if n not in ASKED_FOR)]


def test_without_an_attribute_schema_there_is_no_attributes_column() -> None:
    names = table(part([completion(0)], attributes=())).schema.names
    assert names == [*BEFORE, "lang", "input_status", *(n for n in AFTER if n not in (*ASKED_FOR, "attributes"))]


def test_every_field_of_a_completion_and_its_prompt_is_in_its_row() -> None:
    [row] = table(part([completion(3, sample=1)])).to_pylist()
    sampling = row.pop("sampling")
    assert row == {
        "id": "q1",
        "shard": "in.jsonl",
        "row": 4,
        "variant": 1,
        "sample": 1,
        "lang": "ja",
        "input_status": "final",
        "attributes": {"verbosity": 1, "humor": 0},
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "answer 3.1"}],
        "response": "answer 3.1",
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "cumulative_logprob": -1.5,
        "model": "tiny",
        "prompt_hash": "abc",
        "seconds": 0.25,
        "attempt": 1,
        "status": "ok",
        "error_code": None,
        "error_detail": None,
    }
    assert sampling == dict(check_sampling({"seed": 11}))


def test_a_failed_row_is_a_row_with_its_code_and_detail() -> None:
    [row] = table(part([failed(1, "too_long")])).to_pylist()
    assert (row["status"], row["error_code"], row["error_detail"]) == ("error", "too_long", "in.jsonl:1: no")
    assert (row["response"], row["messages"], row["row"], row["variant"]) == (None, None, 3, 1)


def test_rows_stand_in_the_order_of_the_completions_with_their_prompts_columns() -> None:
    rows = table(part([completion(p, s) for p in range(4) for s in range(2)])).to_pylist()
    keys = [(row["row"], row["variant"], row["sample"]) for row in rows]
    assert keys == [(r, v, s) for r in (3, 4) for v in (0, 1) for s in (0, 1)]
    assert [row["lang"] for row in rows] == ["en"] * 4 + ["ja"] * 4
    assert [row["sampling"]["seed"] for row in rows] == [0, 0, 1, 1, 10, 10, 11, 11]


@pytest.mark.parametrize("name", ["status", "id", "response", "parsed", "sampling", "Status", "ID"])
def test_a_column_whose_name_is_taken_is_carried_as_input_name(name: str) -> None:
    assert carried_name(name) == f"input_{name}"


@pytest.mark.parametrize("name", ["prompt", "input_status", "_id"])
def test_other_columns_keep_their_name(name: str) -> None:
    assert carried_name(name) == name


def test_the_footer_says_what_the_part_holds(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    done = [completion(0), completion(0, 1), failed(1, "too_long"), failed(2), failed(3)]
    assert parts.commit(store, SPAN, part(done))
    counts, errors = parts.read_footer(store, SPAN)
    assert counts == Counts(ok=2, error=3, prompt_tokens=5, completion_tokens=4)
    assert errors == {"too_long": 1, "input": 2}
    assert (counts, errors) == parts.footer_of(done)


def test_first_errors_are_the_first_few() -> None:
    alike = [completion(0), *(failed(1, sample=s) for s in range(9))]
    assert parts.first_errors(alike, most=3) == [(alike[1].error, 9)]
    done = [replace(one, error=RowError("input", f"in.jsonl:1: cause {number}")) for number, one in enumerate(alike)]
    assert parts.first_errors(done, most=3) == [(one.error, 1) for one in done[:3]]
    assert len(parts.first_errors(done)) == 5


def test_the_first_part_of_a_span_stays(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second = part([completion(0)]), part([completion(1)])
    assert [parts.commit(store, SPAN, first), parts.commit(store, SPAN, second)] == [True, False]
    assert store.get(parts.part_name(SPAN)) == first


def test_committed_lists_the_spans_that_have_a_part(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert parts.committed(store) == set()
    parts.commit(store, SPAN, b"not even opened")
    (tmp_path / "data/notes.txt").write_text("foreign")
    assert parts.committed(store) == {SPAN}


def test_a_parts_name_is_its_spans_and_back() -> None:
    assert parts.part_name(SPAN) == f"data/{SPAN}.parquet"
    assert parts.span_of(parts.part_name(SPAN)) == SPAN
    assert [parts.span_of(name) for name in ("data/x.txt", "other/x.parquet", "x.parquet")] == [None, None, None]


def test_a_byte_that_flips_in_any_page_is_detected() -> None:
    data = part([completion(p, s) for p in range(4) for s in range(20)])
    found = pq.ParquetFile(io.BytesIO(data)).metadata
    chunks = [found.row_group(0).column(index) for index in range(found.num_columns)]
    for chunk in chunks:
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        flipped = bytearray(data)
        flipped[start + chunk.total_compressed_size - 1] ^= 0x40
        with pytest.raises(OSError, match="CRC checksum"):
            table(bytes(flipped))


def test_conversations_are_written_as_they_are_where_some_rows_have_none() -> None:
    talks = [["Hi", "雨"], [], ["", "a", "b\n"], [], ["last"]]
    completions = [
        completion(0, sample, messages=tuple({"role": f"r{n}", "content": text} for n, text in enumerate(talk)) or None)
        for sample, talk in enumerate(talks)
    ]
    written = pq.read_table(io.BytesIO(part(completions)))["messages"]
    assert written.to_pylist() == [[{"role": f"r{n}", "content": t} for n, t in enumerate(talk)] or None for talk in talks]
    assert written.null_count == 2


def test_many_completions_of_long_rows_are_put_together_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    completions = [completion(p, s) for p in range(4) for s in range(5)]
    whole = table(part(completions))
    monkeypatch.setattr(parts, "PIECE_BYTES", 1)
    assert table(part(completions)).equals(whole)
