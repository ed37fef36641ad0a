"""Rows in the exact shapes of public data sets are answered as they come, without a script before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.reading import read_all
from tests.support.replicas import answered


def user(*texts: str) -> list[tuple[str, str]]:
    """A conversation of users' and assistants' messages in turn."""
    return [(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]


LABELS = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 1}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, str]], tuple[str, ...]]] = {
    "MT-Bench (FastChat's question.jsonl)": (
        {"turns": "turns", "id": "question_id"},
        {"question_id": 101, "category": "reasoning", "turns": ["Who is second?", "And last?"], "reference": ["You.", "Nobody."]},
        user("Who is second?"),
        ("And last?",),
    ),
    "MT-Bench (HuggingFaceH4/mt_bench_prompts)": (
        {"turns": "prompt", "id": "prompt_id"},
        {"prompt": ["Who is second?", "And last?"], "prompt_id": 101, "category": "reasoning", "reference": []},
        user("Who is second?"),
        ("And last?",),
    ),
    "Japanese MT-Bench": (
        {"turns": "turns", "id": "question_id"},
        {"question_id": 1, "category": "coding", "turns": ["木の高さを求めてください。", "もっと速くできますか？"]},
        user("木の高さを求めてください。"),
        ("もっと速くできますか？",),
    ),
    "Arena-Hard v0.1": (
        {"turns": "turns", "id": "question_id"},
        {"question_id": "328c", "category": "arena-hard-v0.1", "cluster": "Games", "turns": [{"content": "Write a game."}]},
        user("Write a game."),
        (),
    ),
    "Arena-Hard v2.0": (
        {"prompt": "prompt", "id": "uid"},
        {"uid": "2edb", "category": "hard_prompt", "subcategory": "coding", "language": "English", "prompt": "Write a game."},
        user("Write a game."),
        (),
    ),
    "HelpSteer": ({"prompt": "prompt"}, {"prompt": "What is tea?", "response": "A drink.", **LABELS}, user("What is tea?"), ()),
    "HelpSteer3": (
        {"messages": "context"},
        {
            "domain": "general",
            "language": "english",
            "context": [
                {"role": "user", "content": "Tea?"},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": "Green?"},
            ],
            "response1": "Yes.",
            "response2": "No.",
            "overall_preference": -1,
        },
        user("Tea?", "Yes.", "Green?"),
        (),
    ),
    "OASST2 as threads (messages that end with the answer)": (
        {"messages": "messages", "drop_last_answer": True},
        {"lang": "en", "messages": [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes."}]},
        user("Tea?"),
        (),
    ),
    "ShareGPT (ShareGPT_V3_unfiltered_cleaned_split.json)": (
        {"conversations": "conversations", "id": "id", "drop_last_answer": True},
        {
            "id": "QWJhYvA_0",
            "conversations": [
                {"from": "human", "value": "Summarize.", "markdown": None, "text": None},
                {"from": "gpt", "value": "Done.", "markdown": None, "text": None},
                {"from": "human", "value": "Shorter."},
                {"from": "chatgpt", "value": "OK."},
            ],
        },
        user("Summarize.", "Done.", "Shorter."),
        (),
    ),
    "OpenHermes, SlimOrca": (
        {"conversations": "conversations", "drop_last_answer": True},
        {
            "conversations": [
                {"from": "system", "value": "Be kind.", "weight": None},
                {"from": "human", "value": "Tea?", "weight": 0.0},
                {"from": "gpt", "value": "Yes.", "weight": 1.0},
            ],
            "source": "airoboros2.2",
            "category": "general",
        },
        [("system", "Be kind."), ("user", "Tea?")],
        (),
    ),
    "Alpaca": (
        {"instruction": "instruction", "context": "input"},
        {"instruction": "Name the colour.", "input": "A banana", "output": "Yellow"},
        user("Name the colour.\nA banana"),
        (),
    ),
    "Dolly": (
        {"instruction": "instruction", "context": "context"},
        {"instruction": "When did it sail?", "context": "", "response": "In 1912.", "category": "open_qa"},
        user("When did it sail?"),
        (),
    ),
    "LLaMA-Factory's alpaca": (
        {"instruction": "instruction", "context": "input", "history": "history", "system": {"column": "system"}},
        {
            "instruction": "And green tea?",
            "input": "",
            "output": "Less.",
            "system": "Be brief.",
            "history": [["Has tea caffeine?", "Yes."]],
        },
        [("system", "Be brief."), *user("Has tea caffeine?", "Yes.", "And green tea?")],
        (),
    ),
    "LLaMA-Factory's sharegpt": (
        {"conversations": "conversations", "system": {"column": "system"}, "drop_last_answer": True},
        {
            "conversations": [{"from": "human", "value": "Tea?"}, {"from": "gpt", "value": "Yes."}],
            "system": "Be brief.",
            "tools": "[]",
        },
        [("system", "Be brief."), ("user", "Tea?")],
        (),
    ),
    "OpenAI's fine-tuning files": (
        {"messages": "messages", "drop_last_answer": True},
        {"messages": [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes.", "weight": 1}]},
        user("Tea?"),
        (),
    ),
    "SQuAD on the Hub (a question a row)": (
        {"template": "{{ context }}\n\n{{ question }}", "id": "id"},
        {
            "id": "5733be284776f41900661182",
            "title": "University",
            "context": "It has a dome.",
            "question": "What has it?",
            "answers": {"text": ["a dome"], "answer_start": [7]},
        },
        user("It has a dome.\n\nWhat has it?"),
        (),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_row_is_the_conversation_that_it_looks_like(name: str, kind: str, tmp_path: Path) -> None:
    source, data, said, turns = SHAPES[name]
    path = tmp_path / f"in.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(data, ensure_ascii=False) + "\n", encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist([data]), path)
    [row], _ = read_all(path, input={"prompt": None, **source})
    assert row.error is None
    assert [(message["role"], message["content"]) for message in row.messages or []] == said
    assert row.turns == turns


@pytest.mark.parametrize("name", SHAPES)
def test_the_row_is_answered_and_its_columns_stay(name: str, tmp_path: Path) -> None:
    source, data, said, turns = SHAPES[name]
    [row], _ = answered(tmp_path, [data], input={"path": str(tmp_path / "in.jsonl"), **source})
    assert (row["status"], len(row["messages"])) == ("ok", len(said) + 1 + 2 * len(turns))
    given = source.get("id")
    assert given is None or row["id"] == str(data[given])
    missing = {column for column in data if not {column, f"input_{column}"} & row.keys()}
    assert missing <= {"id"}


def test_openais_batch_files_are_requests(tmp_path: Path) -> None:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "Tea?"}], "max_tokens": 5}
    line = {"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    [row], _ = answered(tmp_path, [line], input={"path": str(tmp_path / "in.jsonl"), "format": "openai-batch"})
    assert (row["status"], row["id"], row["sampling"]["max_tokens"]) == ("ok", "request-1", 5)
