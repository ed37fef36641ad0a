"""Fixtures that more than one file uses."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import boto3
import hypothesis
import pytest
import yaml

from batchgen.output.store import open_store
from tests.support import rays
from tests.support.commands import write_questions
from tests.support.planning import lines

os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 a replica gets a thirtieth of a core beside a busy process
hypothesis.settings.register_profile("batchgen", deadline=None)  # how long an example takes is the machine's business
hypothesis.settings.load_profile("batchgen")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from tests.support.processes import Scheduler  # needs pytest-xdist

    config.option.loadscopereorder = False  # the group of Ray begins early
    return Scheduler(config, log)


def pytest_collection_modifyitems(items):
    if "BATCHGEN_LONG" not in os.environ:
        for item in items:
            if item.get_closest_marker("long") is not None:
                item.add_marker(pytest.mark.skip(reason="takes minutes: set BATCHGEN_LONG, or run make chaos"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    rays.prepare(item)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    if item.get_closest_marker("cluster") is None and rays.is_up():
        rays.end()
        pytest.fail("a test that starts Ray has the marker `cluster`")


def pytest_sessionfinish():
    rays.end()


@pytest.fixture(scope="session")
def script():
    """Loads a script under tests/ as a module; registered, because dataclasses look their module up."""

    def load(name: str):
        path = Path(__file__).parent / name
        spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def two_shards(tmp_path):
    """An input of two shards: three rows and two."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text(lines(1, 2, 3))
    (folder / "b.jsonl").write_text(lines(4, 5))
    return folder


@pytest.fixture
def store(tmp_path):
    """A store in a directory, with nothing in it."""
    return open_store(str(tmp_path / "out"))


@pytest.fixture
def folder(tmp_path):
    """A folder with job.yaml and the three rows of its input."""
    job = {"input": {"path": "in.jsonl", "prompt": "prompt"}, "engine": {"kind": "echo"}, "output": {"path": "out"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    (tmp_path / "in.jsonl").write_text("".join(f'{{"prompt": "row {n}", "lang": "en"}}\n' for n in range(3)))
    return tmp_path


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
    """A folder with the rows of `write_questions`, to be read only."""
    folder = tmp_path_factory.mktemp("questions")
    write_questions(folder)
    return folder


@pytest.fixture(scope="session")
def s3():
    """A real S3 server (moto) in its own process: `url` of a bucket, `client` of boto3 for it.

    The environment of the tests names it, as a user's would.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        try:
            _until_it_listens(server, port)
            client = boto3.client("s3")
            client.create_bucket(Bucket="batchgen-tests")
            yield SimpleNamespace(url="s3://batchgen-tests", bucket="batchgen-tests", client=client)
        finally:
            server.terminate()
            server.wait(timeout=20)


def _until_it_listens(server, port):
    patience = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            if server.poll() is not None or time.monotonic() > patience:
                raise
            time.sleep(0.05)
