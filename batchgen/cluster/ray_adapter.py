"""The names of Ray that it does not promise to keep: all that batchgen uses. test_ray_contract.py would notice their loss.

`GcsClient.get_all_node_info`, `.get_all_resource_usage`: there is no public way to see which nodes are being drained, nor what
is free on each. `ray.nodes()` lists drained ones as alive, `ray.available_resources()` is of all nodes together, `ray.util.state`
needs the dashboard. Both have a time limit; `ray.nodes()` and `ray._private.state` wait without end for a head that is gone,
and the driver with them.

`GcsClient.internal_kv_...`, `.get_all_job_info`: how the drivers of a cluster tell each other what they want, and which of them
still run, without a process of its own. `ray.util.placement_group_table()` has no time limit, keeps every group that was ever
removed, and tells what a job holds, not what it would take.

`Dataset.iter_internal_ref_bundles` (developer API): the only stream of block references; `to_arrow_refs` and its like execute
the whole dataset first."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from batchgen.cluster.lookahead import Block

ANSWER_SECONDS = 5
_NAMESPACE, _PREFIX = b"batchgen", b"notes:"


class Living(NamedTuple):
    """A living node: what it has in all, what nobody has reserved, its labels, and whether it is being drained (a spot instance
    with a notice, a node that the autoscaler gives back)."""

    total: dict[str, float]
    free: dict[str, float]
    labels: dict[str, str]
    is_drained: bool


def living_nodes() -> dict[str, Living]:
    """The living nodes by id. Raises RayError when the cluster's head does not answer within ANSWER_SECONDS."""
    head = _here()
    usage = head.get_all_resource_usage(timeout=ANSWER_SECONDS).resource_usage_data.batch
    free = {one.node_id.hex(): dict(one.resources_available) for one in usage}
    found = {}
    for node, info in head.get_all_node_info(timeout=ANSWER_SECONDS).items():
        if info.state == info.ALIVE:
            is_drained = info.state_snapshot.state == info.state_snapshot.DRAINING
            total, name = dict(info.resources_total), node.hex()
            found[name] = Living(total, free.get(name, total), dict(info.labels), is_drained)
    return found


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
