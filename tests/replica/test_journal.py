"""journal.py: finished rows of open spans survive the replica that made them."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from batchgen import logprobs
from batchgen.errors import RowError
from batchgen.job.sampling import check_sampling
from batchgen.output.store import Store, delete_all, open_store
from batchgen.records import CALL_KEYS, Completion
from batchgen.replica import journal

SPAN = "000000-000000000000-000000000200"
CALLS = dict.fromkeys(CALL_KEYS)


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")


def completion(prompt: int, sample: int = 0, **fields: object) -> Completion:
    plain = {
        "messages": ({"role": "user", "content": "q"} | CALLS, {"role": "assistant", "content": "ä\0😀"} | CALLS),
        "response": "ä\0😀",
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "cumulative_logprob": None,
        "prompt_hash": "00",
        "seconds": 0.25,
        "attempt": 1,
    }
    return Completion(prompt=prompt, sample=sample, **{**plain, **fields})


FAILED = completion(4, messages=None, response=None, finish_reason=None, error=RowError("timeout", "a.jsonl:5: no answer"))
CHANGED = check_sampling({"max_tokens": 9, "stop": ["x"]})
TOKENS = logprobs.of_answer([(7, "ä", -0.5, [(7, "ä", -0.5), (8, "b", -1.0)]), (None, "\0😀", -2.0, [])])
RETRIED = completion(5, attempt=3, cumulative_logprob=-1.5, cached_tokens=2, sampling=CHANGED)


def test_what_is_written_is_loaded(store: Store) -> None:
    both = [completion(0, sample) for sample in range(2)]
    first = journal.write(store, SPAN, both)
    scored = [completion(6, token_logprobs=TOKENS), completion(7, token_logprobs=TOKENS.slice(1))]
    attempts = [dict.fromkeys(("response", "finish_reason", "error_code", "error_detail"), "ä") | {"completion_tokens": 3}]
    judged = completion(8, attempts=attempts, prompt_logprobs=TOKENS, copied_tokens=4, copied_prompt_tokens=3)
    judged = replace(judged, judge_tokens=5, judge_prompt_tokens=6)
    second = journal.write(store, SPAN, [FAILED, RETRIED, *scored, judged])
    found, names = journal.load(store, SPAN)
    assert found == {0: both, 4: [FAILED], 5: [RETRIED], 6: scored[:1], 7: scored[1:], 8: [judged]}
    assert names == sorted([first, second])


def test_a_prompt_in_two_files_comes_from_one_of_them(store: Store) -> None:
    for text in ("a", "b"):
        journal.write(store, SPAN, [completion(0, sample, response=text) for sample in range(2)])
    [samples] = journal.load(store, SPAN)[0].values()
    assert [sample.response for sample in samples] in (["a", "a"], ["b", "b"])


@pytest.mark.parametrize("damage", [b"", b"PAR1", "cut", "bit"])
def test_a_damaged_file_is_as_good_as_none(store: Store, damage: object) -> None:
    name = journal.write(store, SPAN, [completion(0)])
    whole = store.get(name)
    assert whole is not None
    if damage == "cut":
        damage = whole[: len(whole) // 2]
    if damage == "bit":
        damage = whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]
    store.put(name, damage)  # type: ignore[arg-type]
    journal.write(store, SPAN, [completion(1)])
    found, names = journal.load(store, SPAN)
    assert found == {1: [completion(1)]}
    assert name in names, "it is deleted with the others"


def test_spans_are_listed_and_cleared_by_name(store: Store) -> None:
    assert journal.spans(store) == set()
    names = [journal.write(store, span, [completion(0)]) for span in ("a", "a", "b")]
    assert journal.spans(store) == {"a", "b"}
    delete_all(store, names[:2])
    assert journal.spans(store) == {"b"}
