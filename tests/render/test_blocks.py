"""The prompts of a span as a table: in pieces, bounded, and the same as the renderer's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchgen.plan import plan
from batchgen.records import Failed, Prompt, Row, RowError, Span
from batchgen.render import blocks
from batchgen.render.blocks import decode_block, decode_prompts, encode_block, encode_span
from tests.support.planning import make, make_job
from tests.support.rendering import tiny

SWEEP = {"attributes": {"schema": "karakuri", "sweep": {"verbosity": [0, 1, 2]}}}

MANY = {"schema": "karakuri", "sweep": {name: [0, 1, 2, 3, 4] for name in ("verbosity", "humor", "toxicity", "creativity")}}


def rows_of(count: int) -> list[Row]:
    messages = [[{"role": "user", "content": f"question {number}"}] for number in range(count)]
    return [Row(number, {"prompt": said[0]["content"]}, None, said) for number, said in enumerate(messages)]


def without_text(prompts: list[Prompt]) -> list[dict[str, Any]]:
    return [{name: getattr(prompt, name) for name in Prompt.__slots__ if name != "text"} for prompt in prompts]


@pytest.mark.parametrize("piece", [1, 500, 10**9])
def test_a_table_in_pieces_has_the_prompts_of_the_renderer(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(blocks, "PIECE_BYTES", piece)
    renderer = tiny(**SWEEP)
    rows = [*rows_of(4), Row(4, {"prompt": None}, RowError("input", "bad"))]
    table = encode_span(renderer, "in.jsonl", rows)
    expected = [prompt for index, row in enumerate(rows) for prompt in renderer.prompts(row, "in.jsonl", index)]
    least, most = {1: (13, 13), 500: (2, 12), 10**9: (1, 1)}[piece]
    assert least <= table["messages"].num_chunks <= most
    block = decode_block(encode_block(Span(0, 0, 5, 5), table, pa.table({"v": range(5)})))
    assert (block.kept.to_pydict(), block.prompts.equals(table)) == ({"v": [0, 1, 2, 3, 4]}, True)
    assert without_text(decode_prompts(block.prompts, "in.jsonl")) == without_text(expected)


def test_prompts_over_the_bytes_of_a_span_are_errors_and_are_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, rows = tiny(**SWEEP), rows_of(3)
    rendered = [prompt for row in rows for prompt in renderer.prompts(row, "in.jsonl", row.ordinal)]
    monkeypatch.setattr(blocks, "SPAN_BYTES", sum(map(blocks._size, rendered[:4])))
    calls, encode = [], renderer.encode
    monkeypatch.setattr(renderer, "encode", lambda messages, *more: calls.append(messages) or encode(messages, *more))
    made = decode_prompts(encode_span(renderer, "in.jsonl", rows), "in.jsonl")
    assert [(prompt.row, prompt.variant) for prompt in made] == [(row, variant) for row in range(3) for variant in range(3)]
    assert [prompt.error is None for prompt in made] == [True] * 4 + [False] * 5
    assert without_text(made[:4]) == without_text(rendered[:4])
    assert len(calls) == 4
    cause = f"the prompts of its span before it hold {blocks.SPAN_BYTES} bytes: have fewer variants"
    assert made[4].error == RowError("input", f"in.jsonl:2: {cause}")
    assert made[8].error == RowError("input", f"in.jsonl:3: {cause}")
    again = decode_prompts(encode_span(renderer, "in.jsonl", rows, [Failed(1, 1, 0, 1, "input")]), "in.jsonl")
    assert without_text(again) == [one | {"failed": (Failed(1, 1, 0, 1, "input"),)} for one in without_text(rendered[4:5])]


@pytest.mark.parametrize(
    ("sections", "most"),
    [
        ({}, 2**24),
        ({"spans": {"bytes": 1000, "rows": 30_000}}, 1000),
        ({"attributes": MANY}, 2**26 // 625),
        ({"sampling": {"n": 128}}, 2**22),
        ({"attributes": MANY, "sampling": {"n": 128}}, 2**29 // (625 * 128)),
    ],
)
def test_spans_are_cut_by_the_bytes_that_variants_and_samples_repeat(tmp_path: Path, sections: dict[str, Any], most: int) -> None:
    row = json.dumps({"prompt": "x" * 900}) + "\n"
    (tmp_path / "in.jsonl").write_text(row * 20_000)
    _, spans = make(make_job(tmp_path / "in.jsonl", **{"spans": {"rows": 30_000}} | sections))
    assert spans[0].rows == -(-most // len(row))
    assert plan.RENDERED_BYTES < blocks.SPAN_BYTES
