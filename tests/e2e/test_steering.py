"""The tiny model is steered by every path at once: a sweep, a column of the row, a key of the turn; and in every sample."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow.dataset as ds
import pytest

from batchgen import Output
from batchgen.export.fidelity import fidelity
from batchgen.job.job import Job
from batchgen.output.store import open_store
from batchgen.prepare import prepare
from tests.support.finished import run_here
from tests.support.rendering import TINY
from tests.support.shared_engine import OPTIONS, Shared

# vLLM is imported in this process; what its libraries warn of is not ours.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
TOPICS = ["tea", "rain", "cats", "the moon", "bread", "chess", "bees", "trains", "volcanoes", "old libraries"]
SAMPLES = 3
JOKE = re.compile("as the chicken said crossing the road", re.IGNORECASE)
INSULT = re.compile("ridiculous question", re.IGNORECASE)
Rows = list[dict[str, Any]]


def conversation(topic: str, first: int, second: int) -> list[dict[str, Any]]:
    """Two turns, each with its own verbosity; the answer to the first is as long as it says."""
    said = f"{topic.capitalize()} is good. " * (first + 1)
    return [
        {"role": "user", "content": f"Tell me about {topic}.", "verbosity": first},
        {"role": "assistant", "content": said.strip()},
        {"role": "user", "content": f"Tell me more about {topic}.", "verbosity": second},
    ]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, vllm_engine: Shared) -> tuple[str, Rows]:
    folder = tmp_path_factory.mktemp("steering")
    rows = [
        {"toxicity": 4 * (number % 2), "verbosity": 1, "messages": conversation(topic, 4 - number % 5, number % 5)}
        for number, topic in enumerate(TOPICS)
    ]
    (folder / "in.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    job = {
        "input": {"path": str(folder / "in.jsonl"), "messages": "messages"},
        "attributes": {"schema": "karakuri", "values": {"verbosity": 3}, "sweep": {"humor": [0, 4]}},
        "model": {"source": str(TINY)},
        "engine": {"kind": "vllm", "options": OPTIONS},
        "sampling": {"n": SAMPLES, "temperature": 0.5, "max_tokens": 160},
        "output": {"path": str(folder / "out")},
    }
    run_here(prepare(Job.parse(job)), open_store(str(folder / "out")), vllm_engine)
    found: Rows = ds.dataset(folder / "out/data").to_table().to_pylist()
    assert len(found) == len(TOPICS) * 2 * SAMPLES
    return str(folder / "out"), found


def share(rows: Rows, right: Any) -> float:
    return sum(bool(right(row)) for row in rows) / len(rows)


def test_a_sweep_steers(answers: tuple[str, Rows]) -> None:
    assert share(answers[1], lambda row: bool(JOKE.search(row["response"])) == (row["attributes"]["humor"] == 4)) > 0.9


def test_a_column_of_the_row_steers(answers: tuple[str, Rows]) -> None:
    assert {row["attributes"]["toxicity"] for row in answers[1] if row["row"] % 2} == {4}
    assert share(answers[1], lambda row: bool(INSULT.search(row["response"])) == bool(row["row"] % 2)) > 0.9


def test_a_key_of_the_turn_steers_over_the_rows_column(answers: tuple[str, Rows]) -> None:
    def wanted(row: dict[str, Any]) -> int:
        return int(row["row"]) % 5

    assert all(row["attributes"]["verbosity"] == wanted(row) for row in answers[1])
    assert share(answers[1], lambda row: len(re.findall(r"[.!?](?:\s|$)", row["response"].strip())) == wanted(row) + 1) > 0.85


def test_every_sample_is_steered_and_they_differ(answers: tuple[str, Rows]) -> None:
    for number in range(SAMPLES):
        of_sample = [row for row in answers[1] if row["sample"] == number]
        assert share(of_sample, lambda row: bool(JOKE.search(row["response"])) == (row["attributes"]["humor"] == 4)) > 0.85
    by_prompt: dict[str, set[str]] = {}
    for row in answers[1]:
        by_prompt.setdefault(row["prompt_hash"], set()).add(row["response"])
    assert sum(len(texts) > 1 for texts in by_prompt.values()) > len(by_prompt) / 2


def test_fidelity_says_that_answers_are_as_long_as_was_asked_for(answers: tuple[str, Rows]) -> None:
    found = fidelity(Output.open(answers[0]))
    lengths = list(found["verbosity"].mean_tokens.values())
    assert lengths == sorted(lengths)
    assert found["verbosity"].correlation_with_tokens is not None
    assert found["verbosity"].correlation_with_tokens > 0.6
