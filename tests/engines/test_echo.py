"""The echo engine: what its answers depend on, its limits and its faults."""

from __future__ import annotations

import asyncio
import math
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenizers import Tokenizer

from batchgen.engines.base import ENGINES, Request
from batchgen.engines.echo import EchoEngine, EchoOptions
from batchgen.errors import BadRow, EngineError, JobError
from batchgen.job.job import Job
from batchgen.job.sampling import check_sampling
from batchgen.records import Answer
from batchgen.render.model_files import load_model
from tests.support import clock

TINY = Path(__file__).parents[2] / "jobs/models/tiny-karakuri"
TEXT = "the quick brown fox jumps over the lazy dog"


def job(model: dict[str, Any] | None = None, **options: Any) -> Job:
    fields = {"input": {"path": "x", "prompt": "p"}, "output": {"path": "o"}, "engine": {"kind": "echo", "options": options}}
    return Job.parse(fields | {"model": model})


def engine(model: dict[str, Any] | None = None, **options: Any) -> EchoEngine:
    asked = job(model, **options)
    made = ENGINES.named("echo").make(asked, load_model(asked.model))
    assert isinstance(made, EchoEngine)
    return made


def generate(made: EchoEngine, text: str = TEXT, ids: list[int] | None = None, **sampling: Any) -> list[Answer]:
    fields = check_sampling({"max_tokens": 1000, **sampling})
    return asyncio.run(made.generate(Request("1", list(text.encode()) if ids is None else ids, fields)))


def text_of(made: EchoEngine, text: str = TEXT, **sampling: Any) -> str:
    [output] = generate(made, text, **sampling)
    return output.text


def test_an_answer_is_made_of_the_prompts_words_one_token_each() -> None:
    [output] = generate(engine())
    assert set(output.text.split()) <= set(TEXT.split())
    assert output.tokens == len(output.text.split()) > 0


def test_an_answer_depends_on_prompt_seed_and_sample_alone() -> None:
    long = engine(length={"distribution": "constant", "mean": 30})
    again = engine(length={"distribution": "constant", "mean": 30}, max_num_seqs=1)
    assert text_of(long, seed=1) == text_of(again, seed=1, top_p=0.5)
    assert len({text_of(long, seed=1), text_of(long, seed=2), text_of(long, TEXT + "s", seed=1)}) == 3


def test_at_temperature_zero_the_seed_changes_nothing() -> None:
    long = engine(length={"distribution": "constant", "mean": 30})
    assert text_of(long, seed=1, temperature=0) == text_of(long, seed=2, temperature=0) == text_of(long, seed=0)


def test_n_samples_differ() -> None:
    outputs = generate(engine(length={"distribution": "constant", "mean": 30}), n=4)
    assert len({output.text for output in outputs}) == 4


def test_the_models_tokenizer_reads_the_prompt() -> None:
    ids = Tokenizer.from_file(str(TINY / "tokenizer.json")).encode("<s>alpha beta</s>").ids
    [output] = generate(engine(model={"source": str(TINY)}), ids=ids)
    assert set(output.text.split()) <= {"alpha", "beta"}


def test_a_prompt_without_words_is_answered_too() -> None:
    assert set(text_of(engine(), "?!").split()) == {"nothing"}


@pytest.mark.parametrize(("limit", "reason"), [(9, "length"), (10, "length"), (11, "stop")])
def test_max_tokens_ends_an_answer_with_length(limit: int, reason: str) -> None:
    [output] = generate(engine(length={"distribution": "constant", "mean": 10}), max_tokens=limit)
    assert (output.tokens, output.finish_reason) == (min(limit, 10), reason)


def test_min_tokens_and_ignore_eos_make_answers_longer() -> None:
    short = engine(length={"distribution": "constant", "mean": 1})
    assert [generate(short, min_tokens=5)[0].tokens, generate(short, ignore_eos=True, max_tokens=7)[0].tokens] == [5, 7]


def test_the_first_stop_string_ends_the_answer_and_stays_only_if_asked() -> None:
    long = engine(length={"distribution": "constant", "mean": 50})
    whole = text_of(long)
    first = min(("quick", "fox"), key=whole.index)
    before = whole[: whole.index(first)]
    for stops in (["quick", "fox"], ["fox", "quick"]):
        [output] = generate(long, stop=stops)
        assert (output.text, output.finish_reason, output.tokens) == (before, "stop", len(before.split()))
        assert text_of(long, stop=stops, include_stop_str_in_output=True) == before + first


def test_logprobs_fill_the_cumulative_logprob() -> None:
    [without], [with_] = generate(engine()), generate(engine(), logprobs=0)
    assert without.cumulative_logprob is None
    assert with_.cumulative_logprob == pytest.approx(-math.log(9) * with_.tokens)


@pytest.mark.parametrize(("distribution", "spread"), [("constant", False), ("uniform", True), ("lognormal", True)])
def test_lengths_have_the_mean_that_was_asked_for(distribution: str, spread: bool) -> None:
    made = engine(length={"distribution": distribution, "mean": 20})
    lengths = [output.tokens for output in generate(made, n=1000)]
    assert statistics.mean(lengths) == pytest.approx(20, rel=0.1)
    assert (statistics.pstdev(lengths) > 5) == spread


def test_capacity_is_max_num_seqs() -> None:
    assert (engine(max_num_seqs=3).capacity, engine().capacity, engine().workers) == (3, 256, 1)


def test_no_more_than_max_num_seqs_prompts_take_their_time_at_once() -> None:
    made = engine(latency=0.05, max_num_seqs=1)

    async def scenario() -> float:
        began = asyncio.get_running_loop().time()
        sampling = check_sampling({"max_tokens": 5})
        await asyncio.gather(*(made.generate(Request(str(number), [65], sampling)) for number in range(3)))
        return asyncio.get_running_loop().time() - began

    assert clock.run(scenario()) == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"latncy": 1}, "latncy: unknown field 'latncy', did you mean 'latency'?"),
        ({"length": {"meen": 1}}, "length.meen: unknown field 'meen', did you mean 'mean'?"),
        ({"latency": -1}, "latency: Input should be greater than or equal to 0"),
        ({"length": {"mean": 0}}, "length.mean: Input should be greater than 0"),
        ({"max_num_seqs": 0}, "max_num_seqs: Input should be greater than or equal to 1"),
    ],
)
def test_an_option_that_echo_does_not_have_is_a_job_error(options: dict[str, Any], cause: str) -> None:
    with pytest.raises(JobError) as caught:
        ENGINES.named("echo").check(job(**options))
    assert str(caught.value).startswith(f"engine.options.{cause}; echo has max_model_len, ")


def test_the_context_is_max_model_len() -> None:
    assert [ENGINES.named("echo").context(job(**options)) for options in ({}, {"max_model_len": 9})] == [None, 9]


def test_every_option_has_a_description() -> None:
    assert [name for name, field in EchoOptions.model_fields.items() if not field.description] == []


def test_start_error_may_be_for_a_while(tmp_path: Path) -> None:
    broken = engine(start_error="no such card", start_error_while=str(tmp_path / "broken"))
    asyncio.run(broken.start())
    (tmp_path / "broken").touch()
    with pytest.raises(EngineError, match="no such card"):
        asyncio.run(broken.start())


def process_of_an_engine() -> psutil.Process:
    [process] = [child for child in psutil.Process().children() if child.name() == "cat"]
    return process


def test_an_engine_with_a_process_dies_with_it_and_takes_it_along() -> None:
    async def scenario() -> None:
        made = engine(process=True, latency=3600)
        await made.start()
        first = process_of_an_engine()
        await made.stop()
        assert not first.is_running()
        await made.start()
        asking = asyncio.create_task(made.generate(Request("1", list(b"a"), check_sampling({"max_tokens": 9}))))
        await asyncio.sleep(0)
        process_of_an_engine().kill()
        with pytest.raises(EngineError, match="echo died"):
            await asking
        with pytest.raises(EngineError, match="echo died"):
            await made.probe()
        await made.stop()

    asyncio.run(scenario())


def test_the_meter_grows_by_a_byte_for_every_answer(tmp_path: Path) -> None:
    made = engine(meter=str(tmp_path / "meter"))
    for samples in (1, 3):
        generate(made, n=samples)
    assert (tmp_path / "meter").stat().st_size == 4


def test_start_error_is_the_engines_message() -> None:
    with pytest.raises(EngineError, match=r"^no such card$"):
        asyncio.run(engine(start_error="no such card").start())


def test_reject_on_refuses_the_prompt_that_contains_the_text() -> None:
    made = engine(reject_on="fox")
    with pytest.raises(BadRow, match="echo refuses 'fox'") as caught:
        generate(made)
    assert caught.value.code == "engine_rejected"
    assert text_of(made, "no such animal")


def test_hang_on_never_answers_that_prompt() -> None:
    made = engine(hang_on="fox")

    async def scenario() -> bool:
        sampling = check_sampling({"max_tokens": 5})
        hanging = asyncio.create_task(made.generate(Request("1", list(TEXT.encode()), sampling)))
        await made.generate(Request("2", list(b"no such animal"), sampling))
        for _ in range(20):
            await asyncio.sleep(0)
        done = hanging.done()
        hanging.cancel()
        return done

    assert asyncio.run(scenario()) is False


def test_hang_on_may_be_for_a_while(tmp_path: Path) -> None:
    (tmp_path / "held").touch()
    made = engine(hang_on="fox", hang_while=str(tmp_path / "held"))

    async def scenario() -> list[Answer]:
        sampling = check_sampling({"max_tokens": 5})
        held = asyncio.create_task(made.generate(Request("1", list(TEXT.encode()), sampling)))
        await made.generate(Request("2", list(b"no such animal"), sampling))
        assert not held.done()
        (tmp_path / "held").unlink()
        return await held

    assert len(asyncio.run(scenario())) == 1


def test_the_engine_dies_of_die_on_with_everything_in_it_and_for_good() -> None:
    made = engine(die_on="fox", latency=30)

    async def scenario() -> list[str]:
        sampling = check_sampling({"max_tokens": 5})
        other = asyncio.create_task(made.generate(Request("1", list(b"no such animal"), sampling)))
        await asyncio.sleep(0)
        found = await asyncio.gather(other, made.generate(Request("2", list(TEXT.encode()), sampling)), return_exceptions=True)
        found += await asyncio.gather(made.generate(Request("3", list(b"late"), sampling)), made.probe(), return_exceptions=True)
        return [f"{type(one).__name__}: {one}" for one in found]

    assert asyncio.run(scenario()) == ["EngineError: echo died"] * 4


def test_nothing_is_answered_after_freeze_on_nor_is_a_probe() -> None:
    made = engine(freeze_on="fox")

    async def scenario() -> list[int]:
        sampling = check_sampling({"max_tokens": 5})
        await made.probe()
        tasks = [
            asyncio.create_task(made.generate(Request(str(n), list(text), sampling)))
            for n, text in enumerate([TEXT.encode(), b"x"])
        ]
        tasks.append(asyncio.create_task(made.probe()))
        done, pending = await asyncio.wait(tasks, timeout=0.3)
        for task in pending:
            task.cancel()
        return [len(done), len(pending)]

    assert clock.run(scenario()) == [0, 3]


def test_kill_on_kills_the_process() -> None:
    script = f"""
import asyncio
from batchgen.engines.base import Request
from batchgen.engines.echo import EchoEngine, EchoOptions
from batchgen.job.sampling import check_sampling
made = EchoEngine(EchoOptions(kill_on="fox"))
asyncio.run(made.generate(Request("1", list(b"no such animal"), check_sampling({{"max_tokens": 5}}))))
print("alive", flush=True)
asyncio.run(made.generate(Request("2", list({TEXT.encode()!r}), check_sampling({{"max_tokens": 5}}))))
print("still alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "alive\n")
