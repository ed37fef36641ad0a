"""jobs/oasst2.yaml: message trees as conversations, labels as the attributes of the prompts that were answered so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from batchgen.job.job import Job
from batchgen.prepare import Prepared, prepare
from tests.support.reading import read_prepared
from tests.support.rendering import BLOCK, one, tiny

JOBS = Path(__file__).parents[2] / "jobs"
MESSAGES = [json.loads(line) for line in (JOBS / "oasst2/messages.jsonl").read_text(encoding="utf-8").splitlines()]


def conversations(path: Path, where: str = "") -> dict[str, list[dict[str, Any]]]:
    """By the id of a prompt, the messages that lead to it, without their nulls."""
    rows, _ = read_prepared(prepared(path, where))
    found = {}
    for row in rows:
        assert row.data is not None
        assert row.messages is not None
        found[row.data["id"]] = [{key: value for key, value in one.items() if value is not None} for one in row.messages]
    return found


def prepared(path: Path, where: str = "") -> Prepared:
    fields = yaml.safe_load((JOBS / "oasst2.yaml").read_text(encoding="utf-8"))
    query = fields["input"]["query"].replace("FROM tree ORDER BY", f"FROM tree {where} ORDER BY")
    fields["input"] |= {"path": str(path), "query": query}
    return prepare(Job.parse(fields | {"engine": {"kind": "echo"}, "output": {"path": str(path.parent / "out")}}))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_prompt_has_the_conversation_that_leads_to_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"messages.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(MESSAGES), path)
    else:
        path.write_bytes((JOBS / "oasst2/messages.jsonl").read_bytes())
    found = conversations(path)
    assert list(found) == ["m1", "m4", "m5", "m7", "m9"]
    assert [message["role"] for message in found["m9"]] == ["user", "assistant", "user"]
    assert found["m4"] == [
        {"role": "user", "content": "Tell me about bees.", "quality": 3, "toxicity": 0, "humor": 1, "creativity": 2},
        {"role": "assistant", "content": "Bees make honey and visit flowers."},
        {"role": "user", "content": "Why do they dance?"},
    ]
    assert found["m5"][0]["humor"] == 4, "another answer, other labels"


def test_a_language_is_a_where(tmp_path: Path) -> None:
    (tmp_path / "messages.jsonl").write_bytes((JOBS / "oasst2/messages.jsonl").read_bytes())
    assert list(conversations(tmp_path / "messages.jsonl", "WHERE lang = 'ja'")) == ["m7", "m9"]


def test_long_trees_other_labels_and_messages_without_a_parent(tmp_path: Path) -> None:
    """What leads to a prompt is the path that the links of its messages say, one after the other."""
    messages: list[dict[str, Any]] = []
    for number in range(400):
        labels = {"name": ["spam", "humor", "quality"], "value": [0.0, number / 400, 0.125], "count": [1, 1, 1]}
        kind = "assistant" if number % 2 else "prompter"
        before = (
            number - 1 if number < 40 else (number * 7 % 40) // 2 * 2 + 1 - number % 2
        )  # a stem of 40 messages, then branches
        parent = f"n{before:03}" if number else None
        messages.append(
            {
                "message_id": f"n{number:03}",
                "parent_id": parent,
                "role": kind,
                "text": f"t{number}",
                "lang": "en",
                "labels": labels,
            }
        )
    messages.append({"message_id": "lost", "parent_id": "nowhere", "role": "prompter", "text": "?", "lang": "en", "labels": None})
    path = tmp_path / "messages.jsonl"
    path.write_text("".join(json.dumps(message) + "\n" for message in reversed(messages)))
    by_id = {message["message_id"]: message for message in messages}
    found = conversations(path)
    assert list(found) == [message["message_id"] for message in messages[:-1] if message["role"] == "prompter"]
    for number, said in found.items():
        trail = [by_id[number]]
        while trail[0]["parent_id"]:
            trail.insert(0, by_id[trail[0]["parent_id"]])
        assert [message["content"] for message in said] == [message["text"] for message in trail]
        for prompt, answer in zip(said[::2], trail[1::2], strict=False):
            assert (prompt["humor"], prompt["quality"]) == (round(4 * answer["labels"]["value"][1]), 0)
        assert all("humor" not in message for message in [*said[1::2], said[-1]])


def test_the_rows_are_rendered_with_the_labels_of_each_turn(tmp_path: Path) -> None:
    (tmp_path / "messages.jsonl").write_bytes((JOBS / "oasst2/messages.jsonl").read_bytes())
    labelled = BLOCK.replace("quality: 4", "quality: 3").replace("humor: 0", "humor: 1").replace("creativity: 0", "creativity: 2")
    row = {"messages": conversations(tmp_path / "messages.jsonl")["m4"]}
    assert one(tiny(input={"path": "x", "messages": "messages"}), **row).text == (
        f"<s>[INST] Tell me about bees. {labelled} [/INST] Bees make honey and visit flowers. </s>"
        f"<s>[INST] Why do they dance? {BLOCK} [/INST]"
    )
