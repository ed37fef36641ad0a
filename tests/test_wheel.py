"""The package as it is published: a wheel, in an environment and a folder that know nothing of this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import yaml

import batchgen

ROOT = Path(__file__).parents[1]
Installed = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves folders in its source."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "batchgen", source / "batchgen", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(source / "dist"), str(source))
    [built] = (source / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A command of a new environment with the wheel in it, run in an empty folder or in `cwd`. The dependencies are those of this
    environment: a path in a .pth file, under which the .pth files of an editable install are not read."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip("--python", str(folder / "bin/python"), "install", "--no-deps", "--no-index", str(wheel))

    def command(name: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        line = [str(folder / "bin" / name), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        where = cwd or tmp_path_factory.mktemp("empty")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(line, cwd=where, env=environment, capture_output=True, text=True, check=False)

    return command


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path.relative_to(ROOT) for path in (ROOT / "batchgen").rglob("*") if path.is_file())
    assert packed == {str(path) for path in files if "__pycache__" not in path.parts}


def test_the_installed_package_is_the_wheel_s_and_says_its_version(installed: Installed) -> None:
    found = installed("python", "-c", "import batchgen; print(batchgen.__file__)")
    assert "environment" in found.stdout, found.stderr
    assert str(ROOT) not in found.stdout
    assert installed("batchgen", "--version").stdout == f"batchgen {batchgen.__version__}\n"
    metadata = "from importlib.metadata import version; print(version('batchgen'))"
    assert installed("python", "-c", metadata).stdout.strip() == batchgen.__version__


def test_help_is_in_the_wheel(installed: Installed) -> None:
    assert installed("batchgen", "help").stdout.splitlines()[0].startswith("answers ")
    assert installed("batchgen", "help", "job").stdout.startswith("# job: ")


@pytest.mark.cluster(own=True)
def test_an_installed_wheel_runs_an_echo_job_in_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    job = {
        "input": {"path": "in.jsonl", "prompt": "prompt"},
        "attributes": {"schema": "karakuri", "values": {"verbosity": 1}},
        "engine": {"kind": "echo"},
        "output": {"path": "out"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    done = installed("batchgen", "run", "job.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ds.dataset(tmp_path / "out/data").to_table()["status"].to_pylist() == ["ok", "ok"]
    assert installed("batchgen", "verify", "out", cwd=tmp_path).returncode == 0
