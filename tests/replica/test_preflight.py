"""preflight.py: a node that cannot do what the driver's can says so before its engine starts."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from batchgen.errors import EngineError, StoreError
from batchgen.job.job import Job
from batchgen.output.store import Store, open_store
from batchgen.render.model_files import ModelFiles, load_model
from batchgen.replica import preflight
from tests.support.rendering import TINY, make_job


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")


def on_a_node(tmp_path: Path, **fields: Any) -> tuple[Job, ModelFiles, Path]:
    """A job, its model as the driver read it, and the folder in which a node has that model."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    job = make_job(model={"source": str(folder)}, **fields)
    return job, load_model(job.model), folder


def test_a_node_like_the_drivers_passes(tmp_path: Path, store: Store) -> None:
    job, model, _ = on_a_node(tmp_path)
    preflight.look(job, model, store)
    assert not list(store.list("_batchgen")), "the probe is gone"
    preflight.look(make_job(), load_model(None), store)


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja", "model.safetensors"])
def test_other_files_than_the_drivers_are_refused_by_their_folder(tmp_path: Path, store: Store, name: str) -> None:
    job, model, folder = on_a_node(tmp_path)
    with open(folder / name, "ab") as file:
        file.write(b" ")
    with pytest.raises(EngineError, match=rf"^model\.source {folder}: its files on this node are not those of the driver; put"):
        preflight.look(job, model, store)


def test_a_missing_folder_is_refused(tmp_path: Path, store: Store) -> None:
    job, model, folder = on_a_node(tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(EngineError, match=rf"^model\.source {folder}: no such directory on this node; put the same files"):
        preflight.look(job, model, store)


def test_credentials_that_a_node_lacks_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Store) -> None:
        raise StoreError("output s3://b: Access Denied")

    monkeypatch.setattr(preflight, "probe", refuse)
    with pytest.raises(EngineError, match=r"^output s3://b: Access Denied; this node cannot write the output; .*env_from"):
        preflight.look(make_job(), load_model(None), store)


def test_an_option_that_the_engine_of_the_node_lacks_is_named(store: Store) -> None:
    job = make_job(engine={"kind": "echo", "options": {"latensy": 1}})
    with pytest.raises(EngineError, match=r"latensy.*; on this node another version is installed than on the driver's"):
        preflight.look(job, load_model(None), store)


@pytest.mark.parametrize(("free", "cached", "fits"), [(100, False, False), (100, True, True), (2000, False, True)])
def test_weights_that_do_not_fit_the_disk_are_refused(
    monkeypatch: pytest.MonkeyPatch, free: int, cached: bool, fits: bool
) -> None:
    files = [SimpleNamespace(rfilename="model.safetensors", size=1000), SimpleNamespace(rfilename="README.md", size=10**6)]
    api = SimpleNamespace(model_info=lambda *_, **__: SimpleNamespace(siblings=files))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: "/there" if cached else None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    if fits:
        preflight._refuse_full_disk("org/model", "c" * 40)
    else:
        with pytest.raises(EngineError, match=r"^model org/model: 0\.0 GiB to download, 0\.0 GiB free at .*HF_HUB_CACHE"):
            preflight._refuse_full_disk("org/model", "c" * 40)
