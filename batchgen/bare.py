"""A run's own Ray has only the processes that the run needs: nobody looks at it, nothing joins it. And on any Ray, the feed of a
process that connected for its run alone needs none of Ray Data's helpers.

Ray has no public switch for either, so methods of its private classes are replaced, in this process, while a `with` lasts. In a
process that was connected before they are left as they are: it may run other datasets.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import node, utils


@contextlib.contextmanager
def bare_node() -> Iterator[None]:
    """A Ray node starts without the dashboard's server, the autoscaler's monitor and the reader of worker logs: for the first
    Ray waits at its start, for the second at its end. The dashboard's agent, which the raylet waits for, starts in the form that
    it has where the dashboard's packages are missing; whether they are, Ray would find out by importing them."""

    def no_server(self: Any, **_: Any) -> None:
        self._webui_url = ""

    with (
        _replaced(node.Node, start_api_server=no_server, start_monitor=lambda _: None, start_log_monitor=lambda _: None),
        _replaced(utils, get_dashboard_dependency_error=lambda: "left out"),
    ):
        yield


@contextlib.contextmanager
def bare_data() -> Iterator[None]:
    """Ray Data's executions start no actors for the dashboard's statistics and for asking an autoscaler: each is a process that
    imports Ray Data, a CPU second, while the replicas start, and stays on the cluster. Ray's autoscaler hears of the replicas and
    read tasks that wait without them."""
    from ray.data._internal.cluster_autoscaler import DefaultAutoscalingCoordinator as Coordinator  # it takes a second
    from ray.data._internal.stats import _StatsManager

    def everything(_: Any) -> dict[str, dict[str, float]]:
        return {one["NodeID"]: one["Resources"] for one in ray.nodes() if one["Alive"]}

    def nothing(*_: Any, **__: Any) -> None:
        pass

    with (
        _replaced(Coordinator, request_resources=nothing, cancel_request=nothing, get_reserved_resources=everything),
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
