"""The README.md of an output, and what opens the output as a dataset."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from batchgen.export import card
from batchgen.output import plan_file
from tests.support.finished import Finished


@pytest.fixture
def made(tmp_path: Path) -> Finished:
    made = Finished(tmp_path, name="tea")
    card.write(made.store, made.prepared.job)
    return made


def test_datasets_loads_an_output_by_its_path(made: Finished, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(made.store.url, split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(loaded["response"], key=str) == sorted((row["response"] for row in made.rows()), key=str)


def test_a_glob_of_parquet_files_finds_the_parts_alone(made: Finished) -> None:
    found = {path.parent.name for path in Path(made.store.url).glob("**/*.parquet")}
    assert found == {"data"}
    assert plan_file.name_of(0) in set(made.store.list(plan_file.FOLDER))


def test_a_readme_of_the_users_own_stays_and_verify_accepts_it(made: Finished) -> None:
    made.store.put(card.NAME, b"mine")
    card.write(made.store, made.prepared.job)
    assert made.store.get(card.NAME) == b"mine"
    assert made.output.verify().problems == []


def test_the_card_has_the_name_and_no_secret(made: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    assert b"# tea\n" in (made.store.get(card.NAME) or b"")
    monkeypatch.setenv("MY_TOKEN", "canary-of-a-secret")
    made.store.delete(card.NAME)
    card.write(made.store, made.prepared.job.model_copy(update={"name": "canary-of-a-secret"}))
    assert b"# [MY_TOKEN]\n" in (made.store.get(card.NAME) or b"")
