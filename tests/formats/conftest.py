"""The archives of this folder, unpacked."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    with tarfile.open(Path(__file__).parent / "1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def released(unpacked: Path, tmp_path: Path) -> Path:
    """A folder with a folder for every kind, to be changed."""
    return Path(shutil.copytree(unpacked, tmp_path / "formats"))
