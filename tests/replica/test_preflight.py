"""preflight.py: a node that cannot do what the driver's can says so before its engine starts."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from batchgen.engines import vllm
from batchgen.errors import EngineError, ModelError, StoreError
from batchgen.job.job import Job
from batchgen.output import job_file
from batchgen.output.store import Store, open_store
from batchgen.render.model_files import ModelFiles, load_model
from batchgen.render.renderer import Renderer
from batchgen.replica import preflight
from tests.support.rendering import TINY, make_job


@pytest.fixture
def store() -> Store:
    made = open_store(f"memory://{uuid.uuid4().hex}")
    made.put(job_file.NAME, b"{}")
    return made


def on_a_node(tmp_path: Path, **fields: Any) -> tuple[Job, ModelFiles, Path]:
    """A job, its model as the driver read it, and the folder in which a node has that model."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    job = make_job(model={"source": str(folder)}, **fields)
    return job, load_model(job.model), folder


def test_a_node_like_the_drivers_passes(tmp_path: Path, store: Store) -> None:
    job, model, _ = on_a_node(tmp_path)
    preflight.look(Renderer(job, model), store)
    assert [*store.list("_batchgen")] == [job_file.NAME], "the probe is gone"
    preflight.look(Renderer(make_job(), load_model(None)), store)


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja", "model.safetensors"])
def test_other_files_than_the_drivers_are_refused_by_their_folder(tmp_path: Path, store: Store, name: str) -> None:
    job, model, folder = on_a_node(tmp_path)
    with open(folder / name, "ab") as file:
        file.write(b" ")
    with pytest.raises(EngineError, match=rf"^model\.source {folder}: its files on this node are not those of the driver; put"):
        preflight.look(Renderer(job, model), store)


def test_a_missing_folder_is_refused(tmp_path: Path, store: Store) -> None:
    job, model, folder = on_a_node(tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(EngineError, match=rf"^model\.source {folder}: no such directory on this node; put the same files"):
        preflight.look(Renderer(job, model), store)


def test_credentials_that_a_node_lacks_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Store) -> None:
        raise StoreError("output s3://b: Access Denied")

    monkeypatch.setattr(preflight, "probe", refuse)
    with pytest.raises(EngineError, match=r"^output s3://b: Access Denied; this node cannot write the output; .*env_from"):
        preflight.look(Renderer(make_job(), load_model(None)), store)


def test_the_variables_that_the_driver_has_and_a_node_lacks_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_REGION", "HF_TOKEN"):
        monkeypatch.setenv(name, "a")
    said = preflight.of_driver(make_job())
    assert {"AWS_ACCESS_KEY_ID", "AWS_REGION", "HF_TOKEN"} <= {*said[preflight.DRIVER_VARIABLES].split(",")}
    monkeypatch.setenv(preflight.DRIVER_VARIABLES, said[preflight.DRIVER_VARIABLES])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("HF_TOKEN")
    assert preflight._missing("s3") == "set on the driver, but not here: AWS_ACCESS_KEY_ID; name them in replicas.env_from"
    assert preflight._missing("gs") == preflight._missing("memory") == preflight._missing("/a/folder") == ""

    def refuse(*_: object) -> None:
        raise ModelError("model.source a/b: the Hub answered: 401")

    monkeypatch.setattr(preflight, "fetch", refuse)
    job = make_job(model={"source": "a/b"})
    model = replace(load_model(None), source="a/b", revision="c" * 40)
    with pytest.raises(EngineError, match=r"^model\.source a/b: .* 401; .* set on the driver, but not here: HF_TOKEN"):
        preflight.look_at_access(Renderer(job, model), store)
    monkeypatch.setenv("HF_TOKEN", "a")
    preflight.look_at_access(Renderer(job, model), store)  # an answer to this node's token is this node's problem
    [problem] = preflight.problems_here(Renderer(job, model))
    assert "401; asked from this node" in str(problem)


def test_a_store_without_the_drivers_files_is_another_one(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError,
        match=rf"^output {tmp_path}/out: on this node the driver's _batchgen/job\.json is not there; share",
    ):
        preflight.look(Renderer(make_job(), load_model(None)), open_store(str(tmp_path / "out")))


def test_an_option_that_the_engine_of_the_node_lacks_is_named(store: Store) -> None:
    job = make_job(engine={"kind": "echo", "options": {"latensy": 1}})
    with pytest.raises(EngineError, match=r"latensy.*; on this node another version is installed than on the driver's"):
        preflight.look(Renderer(job, load_model(None)), store)


def test_versions_are_named_where_they_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(engine={"kind": "vllm"}, model={"source": str(TINY)})
    monkeypatch.setattr(vllm, "installed_version", lambda: "1.1")
    monkeypatch.setenv(preflight.DRIVER_ENGINE, "1.0")
    assert preflight.of_driver(job)[preflight.DRIVER_ENGINE] == preflight.version_here(job) == "1.1"
    assert preflight._versions(job) == "on this node vllm 1.1 is installed, on the driver's 1.0"
    assert preflight.version_here(make_job()) == "", "echo needs no package"


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
