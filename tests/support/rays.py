"""The Ray of a test, by its marker `cluster`: one that all of them join; with `own` none, for it starts its own; without the
marker none, and a run that wants one fails."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

NONE = "127.0.0.1:no-ray-without-the-marker-cluster"


def prepare(item: pytest.Item) -> None:
    """Before a test and its fixtures."""
    marker = item.get_closest_marker("cluster")
    if marker is None or marker.kwargs.get("own"):
        end()
        os.environ["RAY_ADDRESS"] = NONE
        if marker is not None:
            del os.environ["RAY_ADDRESS"]
        return
    import ray

    if not ray.is_initialized():
        os.environ.pop("RAY_ADDRESS", None)
        with contextlib.chdir(Path(__file__).parents[2]):  # where relative paths start in its workers
            ray.init(address="local", include_dashboard=False, log_to_driver=False)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def is_up() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def end() -> None:
    if is_up():
        sys.modules["ray"].shutdown()
