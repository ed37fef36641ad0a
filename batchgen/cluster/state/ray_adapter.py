"""The names of Ray that it does not promise to keep: all that batchgen uses. test_ray_contract.py would notice their loss.

`GcsClient.get_all_node_info`, `.get_draining_nodes`, `.get_all_resource_usage`: there is no public way to see which nodes are
being drained and by when, nor what is free on each. `ray.nodes()` lists drained ones as alive, `ray.available_resources()` is of
all nodes together, `ray.util.state` needs the dashboard. All have a time limit; `ray.nodes()` and `ray._private.state` wait
without end for a head that is gone, and the driver with them.

`GcsClient.internal_kv_get`, `.get_cluster_status`, the keys and the command line of the monitor: nothing public tells what an
autoscaler may add, nor that one runs. In the key __autoscaler_cluster_config a platform's autoscaler reports its node types, as
Ray Data reads it; that of version 1 keeps its status in another.

`GcsClient.internal_kv_...`, `.get_all_job_info`: how the drivers of a cluster tell each other what they want, and which of them
still run, without a process of its own. `ray.util.placement_group_table()` has no time limit, keeps every group that was ever
removed, and tells what a job holds, not what it would take.

`Dataset.iter_internal_ref_bundles` (developer API): the only stream of block references; `to_arrow_refs` and its like execute
the whole dataset first."""

import functools
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import ClusterConfig, GetClusterStatusReply

from batchgen.cluster.lookahead import Block

ANSWER_SECONDS = 5
NODE_TYPE = "ray.io/node-group"  # the label in which a node has the name of its type
_MONITORS = {"autoscaler/_private/monitor.py": False, "autoscaler/v2/monitor.py": True}
_NAMESPACE, _PREFIX = b"batchgen", b"notes:"


class Living(NamedTuple):
    """A living node: what it has in all, what nobody has reserved, its labels, whether it is being drained (a spot instance with
    a notice, a node that the autoscaler gives back), in how many seconds it goes, if its notice said when, and whether it is the
    head."""

    total: dict[str, float]
    free: dict[str, float]
    labels: dict[str, str]
    is_drained: bool
    seconds_left: float | None = None
    is_head: bool = False


def living_nodes() -> dict[str, Living]:
    """The living nodes by id. Raises RayError when the cluster's head does not answer within ANSWER_SECONDS."""
    head = _here()
    usage = head.get_all_resource_usage(timeout=ANSWER_SECONDS).resource_usage_data.batch
    free = {one.node_id.hex(): dict(one.resources_available) for one in usage}
    drained: dict[str, int] = head.get_draining_nodes(timeout=ANSWER_SECONDS)  # the time in ms, 0 without a deadline
    found = {}
    for node, info in head.get_all_node_info(timeout=ANSWER_SECONDS).items():
        if info.state == info.ALIVE:
            total, name = dict(info.resources_total), node.hex()
            seconds = end / 1000 - time.time() if (end := drained.get(name)) else None
            found[name] = Living(total, free.get(name, total), dict(info.labels), name in drained, seconds, info.is_head_node)
    return found


def reported_types() -> list[tuple[str, dict[str, float], int | None]] | None:
    """The node types that an autoscaler has reported to the cluster's head: name, resources, and how many there may be. None
    where none has. Raises RayError as living_nodes does."""
    head = _here()
    reported = head.internal_kv_get(b"__autoscaler_cluster_config", b"__autoscaler", timeout=ANSWER_SECONDS)
    if not reported:
        return None
    groups = ClusterConfig.FromString(reported).node_group_configs
    return [(each.name, dict(each.resources), None if each.max_count < 0 else each.max_count) for each in groups]


def autoscaler_was_there() -> bool:
    """Whether an autoscaler, wherever it runs, has told the cluster's head of its work. Raises RayError as living_nodes does."""
    head = _here()
    if head.internal_kv_get(b"__autoscaling_status", timeout=ANSWER_SECONDS):
        return True
    status = GetClusterStatusReply.FromString(head.get_cluster_status(timeout_s=ANSWER_SECONDS))
    return bool(status.autoscaling_state.autoscaler_state_version)


class Monitor(NamedTuple):
    """How an autoscaler's process was started: the file of its configuration, empty where it adds no nodes, and whether it goes
    by the labels of node types, as version 2 does."""

    config: str
    knows_labels: bool


def monitor_of(command: Sequence[str], port: int) -> Monitor | None:
    """The monitor of the head that listens at this port, if this is its command line."""
    knows_labels = next((known for word in command for name, known in _MONITORS.items() if word.endswith(name)), None)
    options = dict(word.partition("=")[::2] for word in command)
    if knows_labels is None or not options.get("--gcs-address", "").endswith(f":{port}"):
        return None
    return Monitor(options.get("--autoscaling-config", ""), knows_labels)


def note(name: str, text: bytes) -> None:
    """Let the drivers of the cluster read a text of this one under the name, which is unique. Raises as living_nodes."""
    driver = ray.get_runtime_context().get_job_id()
    _here().internal_kv_put(_PREFIX + f"{driver}:{name}".encode(), text, True, _NAMESPACE, timeout=ANSWER_SECONDS)


def notes() -> dict[str, bytes]:
    """The texts of all drivers that run, by name; those of the dead are forgotten. Raises as living_nodes."""
    head = _here()
    keys = head.internal_kv_keys(_PREFIX, _NAMESPACE, timeout=ANSWER_SECONDS)
    found, ours = {}, ray.get_runtime_context().get_job_id()
    alive = {ours: True}
    for key, text in head.internal_kv_multi_get(keys, _NAMESPACE, timeout=ANSWER_SECONDS).items():
        driver, _, name = key.removeprefix(_PREFIX).decode().partition(":")
        if driver not in alive:
            alive[driver] = _runs(head, driver)
        if alive[driver]:
            found[name] = text
        else:
            head.internal_kv_del(key, False, _NAMESPACE, timeout=ANSWER_SECONDS)
    return found


def forget(name: str) -> None:
    """Take a text of this driver back. Raises as living_nodes."""
    driver = ray.get_runtime_context().get_job_id()
    _here().internal_kv_del(_PREFIX + f"{driver}:{name}".encode(), False, _NAMESPACE, timeout=ANSWER_SECONDS)


def _runs(head: GcsClient, driver: str) -> bool:
    skip = {"skip_submission_job_info_field": True, "skip_is_running_tasks_field": True}
    jobs = head.get_all_job_info(job_or_submission_id=driver, **skip, timeout=ANSWER_SECONDS)
    return any(not one.is_dead for one in jobs.values())


def _here() -> GcsClient:
    return _head(ray.get_runtime_context().gcs_address)


@functools.lru_cache(maxsize=1)
def _head(address: str) -> GcsClient:
    """The connection to a cluster's head, one for all looks."""
    return GcsClient(address=address)


# Not an import of Dataset: it takes a second, and the pool does without.
def blocks(dataset: "ray.data.Dataset") -> Iterator[Block]:
    """Execute the dataset: a reference to each block, when it is ready, and its size."""
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            yield entry.ref, entry.metadata.size_bytes or 0
