"""jobs/oasst2: message trees as conversations, labels as the attributes of the prompts that were answered so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.rendering import BLOCK, one, tiny

FOLDER = Path(__file__).parents[2] / "jobs/oasst2"


@pytest.fixture(scope="module")
def oasst2(script: Any) -> Any:
    return script("../jobs/oasst2/oasst2.py")


def test_every_prompt_has_the_conversation_that_leads_to_it(oasst2: Any) -> None:
    rows = {row["id"]: row for row in oasst2.conversations(oasst2.read(FOLDER / "messages.jsonl"), set())}
    assert list(rows) == ["m1", "m4", "m5", "m7", "m9"]
    assert [message["role"] for message in rows["m9"]["messages"]] == ["user", "assistant", "user"]
    assert rows["m4"]["messages"] == [
        {"role": "user", "content": "Tell me about bees.", "quality": 3, "toxicity": 0, "humor": 1, "creativity": 2},
        {"role": "assistant", "content": "Bees make honey and visit flowers."},
        {"role": "user", "content": "Why do they dance?"},
    ]
    assert rows["m5"]["messages"][0]["humor"] == 4, "another answer, other labels"


def test_languages_are_chosen(oasst2: Any) -> None:
    rows = oasst2.conversations(oasst2.read(FOLDER / "messages.jsonl"), {"ja"})
    assert [row["id"] for row in rows] == ["m7", "m9"]


def test_parquet_is_read_as_jsonl_is(oasst2: Any, tmp_path: Path) -> None:
    messages = oasst2.read(FOLDER / "messages.jsonl")
    pq.write_table(pa.Table.from_pylist(messages), tmp_path / "messages.parquet")
    table = oasst2.read(tmp_path / "messages.parquet")
    assert list(oasst2.conversations(table, set())) == list(oasst2.conversations(messages, set()))


def test_the_rows_are_rendered_with_the_labels_of_each_turn(
    oasst2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["oasst2.py", "--to", str(tmp_path / "to/rows.jsonl")])
    oasst2.main()
    assert capsys.readouterr().out == f"5 conversations: {tmp_path}/to/rows.jsonl\n"
    row = json.loads((tmp_path / "to/rows.jsonl").read_text().splitlines()[1])
    labelled = BLOCK.replace("quality: 4", "quality: 3").replace("humor: 0", "humor: 1").replace("creativity: 0", "creativity: 2")
    assert one(tiny(input={"path": "x", "messages": "messages"}), **row).text == (
        f"<s>[INST] Tell me about bees. {labelled} [/INST] Bees make honey and visit flowers. </s>"
        f"<s>[INST] Why do they dance? {BLOCK} [/INST]"
    )
