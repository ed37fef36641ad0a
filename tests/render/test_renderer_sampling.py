"""What a row runs with: its own sampling over its columns over the job's, and the seeds derived for it."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

from batchgen.render.renderer import derive_seed
from tests.support.rendering import bare, error_of, one, prompts, tiny


@pytest.mark.parametrize(
    ("row", "temperature"),
    [({}, 1.0), ({"t": 0.3}, 0.3), ({"t": None}, 1.0), ({"t": 0.3, "sampling": {"temperature": 0.2}}, 0.2)],
)
def test_a_rows_struct_wins_over_its_column_wins_over_the_default(row: dict[str, Any], temperature: float) -> None:
    prompt = one(bare(sampling={"temperature": {"column": "t"}}), prompt="a", **row)
    assert prompt.sampling is not None
    assert prompt.sampling.temperature == temperature


def test_a_rows_struct_wins_over_the_jobs_constant_field_by_field() -> None:
    renderer = bare(sampling={"temperature": 0.7, "top_p": 0.5, "max_tokens": 9})
    sampling = one(renderer, prompt="a", sampling={"temperature": 0.1, "top_p": None}).sampling
    assert sampling is not None
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.1, 0.5, 9)


def test_a_null_in_the_rows_struct_falls_back_to_the_column() -> None:
    prompt = one(bare(sampling={"temperature": {"column": "t"}}), prompt="a", t=0.3, sampling={"temperature": None})
    assert prompt.sampling is not None
    assert prompt.sampling.temperature == 0.3


@pytest.mark.parametrize("own", [None, {}, {"temperature": None, "seed": None}])
def test_a_struct_of_nulls_changes_nothing(own: dict[str, Any] | None) -> None:
    renderer = bare(sampling={"temperature": 0.7})
    assert one(renderer, prompt="a", sampling=own).sampling == one(renderer, prompt="a").sampling


def test_a_row_is_not_taken_for_an_earlier_one_whose_values_are_equal_in_another_type() -> None:
    renderer = bare(sampling={"max_tokens": {"column": "m"}})
    [first, second, third] = [prompts(renderer, prompt="a", m=m)[0] for m in (1, True, 1)]
    assert first.sampling == third.sampling
    assert first.sampling is not None
    assert first.sampling.max_tokens == 1
    assert second.error is not None
    assert "max_tokens: Input should be a valid integer" in second.error.detail


def test_data_columns_named_like_settings_stay_data() -> None:
    assert one(bare(), prompt="a", n=5, seed=3, temperature=0).sampling == one(bare(), prompt="a").sampling


@pytest.mark.parametrize(
    ("own", "cause"),
    [
        ({"top_p": 2}, "sampling: top_p: "),
        ({"temperature": -1}, "sampling: temperature: "),
        ({"temperature": math.nan}, "sampling: temperature: "),
        ({"n": 0}, "sampling: n: "),
        ({"top_k": 1.5}, "sampling: top_k: "),
        ({"top_k": 2**40}, "sampling: top_k: "),
        ({"min_tokens": 2**40}, "sampling: min_tokens: "),
        ({"stop_token_ids": [2**40]}, "sampling: stop_token_ids.0: "),
        ({"max_tokens": True}, "sampling: max_tokens: Input should be a valid integer"),
        ({"min_tokens": 5, "max_tokens": 2}, "sampling: min_tokens 5 is more than max_tokens 2"),
        ({"temprature": 1}, "sampling: temprature: unknown field 'temprature', did you mean 'temperature'?"),
        ({"n": 3, "best_of": 2}, "sampling: best_of 2 is less than n 3"),
        ("hot", "sampling must be a struct, not str"),
        ([1], "sampling must be a struct, not list"),
    ],
)
def test_bad_sampling_of_a_row_is_an_input_error(own: Any, cause: str) -> None:
    code, detail = error_of(one(bare(), 1, prompt="a", sampling=own))
    assert code == "input"
    assert detail.startswith(f"in.jsonl:2: {cause}")


@pytest.mark.parametrize("own", [{"temperature": "0.5"}, {"max_tokens": "7"}, {"temperature": True}])
def test_a_string_or_a_boolean_is_no_number_in_sampling(own: dict[str, Any]) -> None:
    assert error_of(one(bare(), prompt="a", sampling=own))[0] == "input"


def test_an_empty_stop_string_is_an_input_error() -> None:
    assert error_of(one(bare(), prompt="a", sampling={"stop": [""]}))[0] == "input"


def test_derived_seeds_differ_per_row_and_variant_and_stay_the_same() -> None:
    renderer = tiny(attributes={"schema": "karakuri", "sweep": {"humor": [0, 1, 2]}}, sampling={"seed": 11})
    seeds = [p.sampling.seed for n in range(4) for p in prompts(renderer, n, prompt="a") if p.sampling]
    again = pickle.loads(pickle.dumps(renderer))
    assert len(set(seeds)) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [p.sampling.seed for n in range(4) for p in prompts(again, n, prompt="a") if p.sampling]
    assert seeds[4] == derive_seed(11, "in.jsonl", 1, 1)


def test_derived_seeds_differ_per_shard_and_job_seed() -> None:
    assert len({derive_seed(0, "a", 0, 0), derive_seed(0, "b", 0, 0), derive_seed(1, "a", 0, 0), derive_seed(-1, "a", 0, 0)}) == 4


@pytest.mark.parametrize("row", [{"sampling": {"seed": 42}}, {"s": 42}])
def test_a_rows_own_seed_is_used_as_it_is(row: dict[str, Any]) -> None:
    renderer = tiny(attributes={"schema": "karakuri", "sweep": {"humor": [0, 1]}}, sampling={"seed": {"column": "s"}})
    assert [p.sampling.seed for p in prompts(renderer, prompt="a", **row) if p.sampling] == [42, 42]


def test_a_rows_own_best_of_makes_its_logprobs_0() -> None:
    sampling = one(bare(), prompt="a", sampling={"best_of": 2, "logprobs": None}).sampling
    assert sampling is not None
    assert (sampling.best_of, sampling.logprobs) == (2, 0)


def test_a_null_seed_stays_null() -> None:
    prompt = one(bare(sampling={"seed": None}), prompt="a", sampling={"temperature": 0.5})
    assert prompt.sampling is not None
    assert prompt.sampling.seed is None


def test_a_row_may_name_an_adapter_that_the_job_has_and_no_path() -> None:
    renderer = bare(model={"source": "m", "adapters": {"odd": "adapters/odd"}})
    sampling = one(renderer, prompt="a", sampling={"adapter": "odd"}).sampling
    assert sampling is not None
    assert sampling.adapter == "odd"
    code, detail = error_of(one(renderer, prompt="a", sampling={"adapter": "adapters/odd"}))
    assert (code, detail) == ("input", "in.jsonl:1: sampling: adapter: no 'adapters/odd' in model.adapters (it has odd)")
