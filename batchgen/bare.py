"""A Ray that starts and ends with its job has only the processes that the job needs: nobody looks at it, nothing joins it.

Ray has no public switch for the others, so methods of its private classes are replaced while a `with` lasts. A Ray that ran
before, or that the caller started, is left as it is.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import node, utils, worker

MARK = "batchgen_alone"


@contextlib.contextmanager
def bare_node() -> Iterator[None]:
    """A Ray node starts without the dashboard's server, the autoscaler's monitor and the reader of worker logs. For the first
    Ray waits at its start, for the second at its end; that the dashboard's packages are there it finds out by importing them."""

    def no_server(self: Any, **_: Any) -> None:
        self._webui_url = ""
        setattr(self, MARK, True)

    with (
        _replaced(node.Node, start_api_server=no_server, start_monitor=lambda _: None, start_log_monitor=lambda _: None),
        _replaced(utils, get_dashboard_dependency_error=lambda: None),
    ):
        yield


@contextlib.contextmanager
def bare_data() -> Iterator[None]:
    """On such a node, Ray Data's executions start no actors for the dashboard's statistics and for asking an autoscaler: each is
    a process that imports Ray Data, a CPU second, while the replicas start."""
    if not getattr(worker._global_node, MARK, False):
        yield
        return
    from ray.data._internal.cluster_autoscaler import DefaultAutoscalingCoordinator as Coordinator  # it takes a second
    from ray.data._internal.stats import _StatsManager

    everything = {one["NodeID"]: one["Resources"] for one in ray.nodes()}

    def nothing(*_: Any, **__: Any) -> None:
        pass

    with (
        _replaced(Coordinator, request_resources=nothing, cancel_request=nothing, get_reserved_resources=lambda _: everything),
        _replaced(
            _StatsManager,
            register_dataset_to_stats_actor=staticmethod(nothing),
            update_execution_metrics=staticmethod(nothing),
            update_iteration_metrics=staticmethod(nothing),
            gen_dataset_id_from_stats_actor=staticmethod(lambda: uuid.uuid4().hex),
        ),
    ):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, **instead: Any) -> Iterator[None]:
    before = {name: vars(owner)[name] for name in instead}
    try:
        for name, call in instead.items():
            setattr(owner, name, call)
        yield
    finally:
        for name, call in before.items():
            setattr(owner, name, call)
