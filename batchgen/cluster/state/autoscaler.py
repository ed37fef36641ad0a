"""What the cluster's autoscaler may add. Ray's own keeps that to itself: its monitor, a process on the head, reads a cluster
configuration, so the head is looked at. Others report it to the head."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import ObjectRef
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from batchgen import logs
from batchgen.cluster.fit.shape import NodeType
from batchgen.cluster.state import ray_adapter
from batchgen.cluster.state.ray_adapter import Living
from batchgen.errors import safe_message

ANSWER_SECONDS = 30.0  # that the first look at the head may take, where a worker starts for it
ASK_SECONDS = 60.0  # between two looks: a configuration may change
_LOG = logs.logger("autoscaler")


@dataclass(frozen=True)
class Limits:
    """The node types of an autoscaler, `most` of each with those that are there, and the `workers` that it allows in all; None
    without a limit."""

    types: tuple[NodeType, ...] = ()
    workers: int | None = None

    def left(self, living: Mapping[str, Living]) -> tuple[NodeType, ...]:
        """The types, `most` without those that are there. A node that is being drained is as good as gone."""
        workers = [one for one in living.values() if not (one.is_head or one.is_drained)]
        rest = None if self.workers is None else self.workers - len(workers)
        found = []
        for each in self.types:
            own = None if each.most is None else each.most - sum(_is_of(one, each) for one in workers)
            bounds = [bound for bound in (own, rest) if bound is not None]
            found.append(replace(each, most=max(0, min(bounds)) if bounds else None))
        return tuple(found)


class Autoscaler:
    """The autoscaler of the cluster that this process is connected to. `known`: its types, where nobody need be asked."""

    def __init__(self, known: tuple[NodeType, ...] | None = None) -> None:
        self._limits = None if known is None else Limits(known)
        self._look: ObjectRef | None = None
        self._asked = float("-inf" if known is None else "inf")
        self._wait_seconds = ANSWER_SECONDS

    def types(self, living: Mapping[str, Living]) -> tuple[NodeType, ...] | None:
        """The node types that may come, () where no autoscaler adds any, None where one runs that does not show them. Asks once
        in ASK_SECONDS, and waits for the answer the first time."""
        try:
            self._ask(living)
        except RayError as error:  # what was known holds
            _LOG.debug("the head did not say what its autoscaler adds: %s", safe_message(error))
            self._look = None
        return None if self._limits is None else self._limits.left(living)

    def _ask(self, living: Mapping[str, Living]) -> None:
        if self._look is None:
            if time.monotonic() - self._asked < ASK_SECONDS:
                return
            self._asked = time.monotonic()
            if (reported := ray_adapter.reported_types()) is not None:
                self._limits = Limits(tuple(NodeType(*each, labels=None) for each in reported))
                return
            port = int(ray.get_runtime_context().gcs_address.rpartition(":")[2])
            head = next((name for name, one in living.items() if one.is_head), None)
            if head is None or head == ray.get_runtime_context().get_node_id():
                self._limits = _known(*read(port))
                return
            self._look = _READ.options(scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=False)).remote(port)
        if ray.wait([self._look], timeout=self._wait_seconds)[0]:
            self._limits, self._look = _known(*ray.get(self._look)), None
        self._wait_seconds = 0.0


def read(port: int) -> tuple[bool, Limits | None]:
    """On the head's machine: whether a monitor runs beside the head that listens at a port, and its limits, without types where
    it adds no nodes; None where they cannot be read."""
    for words, folder in _processes():
        if (started := ray_adapter.monitor_of(words, port)) is not None:
            if not started.config:
                return True, Limits()
            try:
                text = (folder / Path(started.config).expanduser()).read_text()
                return True, parse(yaml.safe_load(text), started.knows_labels)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
                return True, None
    return False, None


_READ = ray.remote(num_cpus=0, max_retries=0)(read)


def parse(config: Mapping[str, Any], knows_labels: bool) -> Limits | None:
    """The limits in a cluster configuration (docs.ray.io, cluster YAML configuration options), with the defaults of Ray: workers
    of a type up to those in all, none of the head's. None where a type does not say what its nodes have: some providers find out
    themselves. `knows_labels`: whether the autoscaler goes by the labels of types."""
    found, workers = [], int(config["max_workers"])
    for name, each in config["available_node_types"].items():
        most = int(each.get("max_workers", 0 if name == config["head_node_type"] else workers))
        if most:
            if not each.get("resources"):
                return None
            resources = {resource: float(amount) for resource, amount in each["resources"].items()}
            found.append(NodeType(name, resources, most, {**(each.get("labels") or {})} if knows_labels else None))
    return Limits(tuple(found), workers)


def _known(runs: bool, found: Limits | None) -> Limits | None:
    """What `read` has found, and where no monitor runs: an autoscaler may run somewhere else (KubeRay's does), or none."""
    return found if runs or ray_adapter.autoscaler_was_there() else Limits()


def _processes() -> Iterator[tuple[list[str], Path]]:
    """The command line and the working directory of each process of this machine."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            yield (entry / "cmdline").read_bytes().decode(errors="replace").split("\0"), entry / "cwd"
        except OSError:  # it has ended
            continue


def _is_of(node: Living, kind: NodeType) -> bool:
    """Whether a node is of a type: by its label, or where it has none by its CPUs and GPUs."""
    if (named := node.labels.get(ray_adapter.NODE_TYPE)) is not None:
        return named == kind.name
    return all(node.total.get(name, 0) == kind.total.get(name, 0) for name in ("CPU", "GPU"))
