"""Equal prompts are generated once: which are equal, who gets what, what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import BadRow
from batchgen.job.sampling import Sampling, check_sampling
from batchgen.output import parts
from batchgen.output.store import open_store
from batchgen.records import Answer
from batchgen.tasks.dedupe import Shared, key_of
from tests.support.rendering import make_job
from tests.support.replicas import answered


class Counting:
    """Answers with the number of the request, once it may."""

    def __init__(self, error: BadRow | None = None, text: str = "") -> None:
        self.calls, self.cancelled = 0, 0
        self.may, self.error, self.text = asyncio.Event(), error, text

    async def __call__(self, ids: list[int], sampling: Sampling, priority: int, images: Sequence[str]) -> list[Answer]:
        self.calls += 1
        number = self.calls
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return [Answer(f"{self.text}{number}", 3, "stop", cached_tokens=2) for _ in range(sampling.n)]


GREEDY = check_sampling({"temperature": 0})


def test_those_in_flight_share_one_request_and_those_after_it_remember() -> None:
    async def scenario() -> None:
        engine = Counting()
        shared = Shared(engine)
        asked = [asyncio.create_task(shared.generate([1, 2], GREEDY, 0, ())) for _ in range(3)]
        other = asyncio.create_task(shared.generate([1, 3], GREEDY, 0, ()))
        await asyncio.sleep(0)
        engine.may.set()
        answers = [one for [one] in await asyncio.gather(*asked, other)]
        assert [(one.text, one.copied, one.cached_tokens) for one in answers[:3]] == [
            ("1", False, 2),
            ("1", True, 0),
            ("1", True, 0),
        ]
        assert (answers[3].text, answers[3].copied) == ("2", False)
        [late] = await shared.generate([1, 2], GREEDY, 0, ())
        assert (late.text, late.copied, late.tokens, engine.calls) == ("1", True, 3, 2)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "changed",
    [
        *({name: value} for name, value in {"top_p": 0.5, "max_tokens": 9, "n": 2, "stop": ["x"], "logprobs": 1}.items()),
        {"structured_outputs": {"choice": ["a"]}},
        {"adapter": "a"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"chat_template_kwargs": {"a": 1}},
        {"reasoning_effort": "low"},
        {"prompt_logprobs": 1},
        {"logit_bias": {"1": 2}},
        {"temperature": 0.5},
    ],
)
def test_another_sampling_is_another_request(changed: dict[str, Any]) -> None:
    assert key_of([1], GREEDY, ()) != key_of([1], check_sampling({"temperature": 0, **changed}), ())


def test_equal_are_tokens_images_and_seed_where_it_matters() -> None:
    def key(ids: list[int], images: Sequence[str] = (), **fields: Any) -> bytes | None:
        return key_of(ids, check_sampling(fields), images)

    assert key([1], temperature=0, seed=3) == key([1], temperature=0, seed=None)
    assert key([1], temperature=1, seed=3) == key([1], temperature=1, seed=3)
    assert key([1], temperature=1, seed=3) != key([1], temperature=1, seed=4)
    assert key([1], temperature=1, seed=None) is None
    assert key([1], ("data:a",), temperature=0) != key([1], ("data:b",), temperature=0)
    assert key([1], ("a", "b"), temperature=0) != key([1], ("ab",), temperature=0)
    assert key([1, 0], temperature=0) != key([1], temperature=0)


def test_an_error_is_told_to_those_who_wait_and_is_not_remembered() -> None:
    async def scenario() -> None:
        engine = Counting(BadRow("engine_rejected", "no"))
        shared = Shared(engine)
        asked = [asyncio.create_task(shared.generate([1], GREEDY, 0, ())) for _ in range(2)]
        await asyncio.sleep(0)
        engine.may.set()
        assert [str(error) for error in await asyncio.gather(*asked, return_exceptions=True)] == ["no", "no"]
        assert engine.calls == 1
        engine.error = None
        [answer] = await shared.generate([1], GREEDY, 0, ())
        assert (answer.text, answer.copied) == ("2", False)

    asyncio.run(scenario())


def test_a_first_one_that_is_cancelled_does_not_take_the_others_with_it() -> None:
    async def scenario() -> None:
        engine = Counting()
        shared = Shared(engine)
        first, second, third = (asyncio.create_task(shared.generate([1], GREEDY, 0, ())) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        engine.may.set()
        [[one], [two]] = await asyncio.gather(second, third)
        assert (one.text, one.copied, two.copied, engine.calls, engine.cancelled) == ("1", False, True, 1, 0)

    asyncio.run(scenario())


def test_a_request_that_nobody_waits_for_is_cancelled() -> None:
    async def scenario() -> None:
        engine = Counting()
        shared = Shared(engine)
        asked = [asyncio.create_task(shared.generate([1], GREEDY, 0, ())) for _ in range(2)]
        await asyncio.sleep(0)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert engine.cancelled == 1
        engine.may.set()
        [answer] = await shared.generate([1], GREEDY, 0, ())
        assert (answer.text, answer.copied) == ("2", False)

    asyncio.run(scenario())


def test_what_is_remembered_is_bounded_and_the_least_recently_used_goes_first() -> None:
    async def scenario() -> None:
        engine = Counting(text="x" * 1000)
        engine.may.set()
        shared = Shared(engine, max_bytes=3 * 6000)
        for token in (1, 2, 3, 1, 4, 1, 2):  # 4 takes the place of 2
            await shared.generate([token], GREEDY, 0, ())
        assert engine.calls == 5
        large = Shared(engine, max_bytes=1000)
        for _ in range(2):
            await large.generate([1], GREEDY, 0, ())
        assert engine.calls == 7

    asyncio.run(scenario())


def run(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> tuple[list[dict[str, Any]], Any, int]:
    """The rows, the counts, and how many answers were generated."""
    meter = folder / "meter"
    engine = {"kind": "echo", "options": {"meter": str(meter), "max_num_seqs": 4}}
    found, receipt = answered(folder, rows, engine=engine, spans={"rows": 1000}, **fields)
    assert parts.read_footer(open_store(str(folder / "out")), receipt.span)[0] == receipt.counts
    return found, receipt.counts, meter.stat().st_size


def test_equal_rows_get_the_answer_and_its_tokens_are_counted_once(tmp_path: Path) -> None:
    rows = [{"prompt": f"which {number % 5} of them"} for number in range(50)]
    found, counts, generated = run(tmp_path, rows, dedupe=True, sampling={"temperature": 0})
    assert generated == 5
    assert (counts.ok, counts.deduplicated) == (50, 45)
    for number, row in enumerate(found):
        same = found[number % 5]
        assert (row["response"], row["completion_tokens"], row["prompt_tokens"], row["prompt_hash"]) == (
            same["response"],
            same["completion_tokens"],
            same["prompt_tokens"],
            same["prompt_hash"],
        )
    assert counts.completion_tokens == sum(row["completion_tokens"] for row in found[:5])
    assert counts.prompt_tokens == sum(row["prompt_tokens"] for row in found[:5])


@pytest.mark.parametrize(
    ("fields", "own", "generated"),
    [
        ({"sampling": {"temperature": 0}}, {}, 20),
        ({"sampling": {"temperature": 1}, "dedupe": True}, {}, 20),
        ({"sampling": {"temperature": 1, "seed": None}, "dedupe": True}, {}, 20),
        ({"dedupe": True}, {"sampling": {"seed": 7}}, 1),
        ({"sampling": {"temperature": 1, "seed": 7}, "dedupe": True}, {}, 1),
        ({"sampling": {"temperature": 1, "seed": 7, "n": 3}, "dedupe": True}, {}, 3),
        ({"sampling": {"temperature": 1, "seed": 7}}, {}, 20),
        ({"sampling": {"temperature": 0, "n": 3}, "dedupe": True}, {}, 3),
        (
            {
                "sampling": {"temperature": 0},
                "dedupe": True,
                "attributes": {"schema": "karakuri", "sweep": {"verbosity": [0, 1]}},
            },
            {},
            2,
        ),
    ],
)
def test_only_what_is_the_same_by_right_is_shared(tmp_path: Path, fields: Any, own: Any, generated: int) -> None:
    found, counts, number = run(tmp_path, [{"prompt": "the same", **own}] * 20, **fields)
    assert number == generated
    assert counts.deduplicated == len(found) - generated


def test_a_seed_of_the_job_that_all_rows_have_belongs_to_its_meaning() -> None:
    def meaning(**fields: Any) -> dict[str, object]:
        return make_job(**fields).meaning()

    assert meaning(dedupe=True) == meaning() == meaning(dedupe=False)
    assert meaning(sampling={"seed": 7}) == meaning(sampling={"seed": 7}, dedupe=False)
    assert meaning(sampling={"seed": 7}, dedupe=True) == meaning(sampling={"seed": 7}) | {"dedupe": True}
    assert meaning(sampling={"seed": None}, dedupe=True) == meaning(sampling={"seed": None})


def test_of_scripted_turns_the_first_is_shared(tmp_path: Path) -> None:
    rows = [{"turns": ["one", "two"]}] * 4
    source = {"path": str(tmp_path / "in.jsonl"), "turns": "turns"}
    found, counts, generated = run(tmp_path, rows, dedupe=True, sampling={"temperature": 0}, input=source)
    assert (generated, counts.deduplicated) == (1 + 4, 3)
    whole, first = found[0]["completion_tokens"], len(found[0]["messages"][1]["content"].split())
    assert counts.completion_tokens == 4 * whole - 3 * first
    assert len({row["response"] for row in found}) == 1


def test_another_attempt_is_not_a_copy(tmp_path: Path) -> None:
    errors = {"rejected": {"retry": 2}}
    _, counts, generated = run(
        tmp_path, [{"prompt": "same"}] * 3, dedupe=True, sampling={"temperature": 0}, accept={"regex": "never"}, errors=errors
    )
    assert generated == 1 + 3 * 2
    assert (counts.error, counts.deduplicated) == (3, 0)
