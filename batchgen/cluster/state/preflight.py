"""The preflight of a job: one task that looks from a worker, with a replica's environment, while the replicas start.

What holds for every worker ends the job: the output cannot be written, a credential is missing. What is wrong with that one node
is a line: replicas may go to others, and each looks at its own node before its engine starts."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import ray
from ray.exceptions import RayError

from batchgen import logs
from batchgen.cluster.actor import environment
from batchgen.cluster.state.places import NODE_ID
from batchgen.cluster.state.ray_adapter import living_nodes
from batchgen.errors import SECRET_NAMES, BatchgenError, EngineError, safe_message
from batchgen.output.store import open_store
from batchgen.render.renderer import Renderer
from batchgen.replica import preflight

CPUS = 0.5
_LOG = logs.logger("preflight")


class Seen(NamedTuple):
    """What a task saw: why no worker can do the job, and what is wrong with its own node, which is in the words; empty for
    nothing."""

    refused: str = ""
    wrong_here: str = ""


class Preflight:
    """A task with a replica's environment, on another node than the driver's where one has CPUs. Nothing waits for it, even where
    no CPU is free."""

    def __init__(self, renderer: Renderer, output: str) -> None:
        here = ray.get_runtime_context().get_node_id()
        options = {}
        try:
            others = any(name != here and one.total.get("CPU", 0.0) >= CPUS for name, one in living_nodes().items())
            options = {"label_selector": {NODE_ID: f"!{here}"}} if others else {}
        except RayError as error:  # it goes anywhere
            _LOG.debug("the head did not say which nodes there are: %s", safe_message(error))
        task = ray.remote(max_calls=1)(_look)  # so that no other task finds the environment
        task = task.options(num_cpus=CPUS, max_retries=0, **options)
        self._open: ray.ObjectRef | None = task.remote(renderer, output, environment(renderer.job))

    def line(self) -> str:
        """What is wrong with the task's node, once, when it has looked. Raises EngineError when no worker can do the job."""
        if self._open is None or not ray.wait([self._open], timeout=0)[0]:
            return ""
        reference, self._open = self._open, None
        try:
            seen: Seen = ray.get(reference)
        except RayError as error:  # its node went, or its process was killed: replicas look themselves
            _LOG.info("no preflight: %s", safe_message(error))
            return ""
        if seen.refused:
            raise EngineError(seen.refused)
        return seen.wrong_here

    def end(self) -> None:
        if self._open is not None:
            ray.cancel(self._open, force=True)


def _look(renderer: Renderer, output: str, env: Mapping[str, str]) -> Seen:
    job = renderer.job
    os.environ.update({**env, **job.engine.env, **(job.judge.engine.env if job.judge else {})})
    SECRET_NAMES.update(job.replicas.env_from)
    place = f"node {ray.get_runtime_context().get_node_id()[:12]} ({ray.util.get_node_ip_address()})"
    try:
        preflight.look_at_access(renderer, open_store(output))
    except BatchgenError as error:
        return Seen(refused=f"preflight on {place}: {error}")
    if preflight.version_here(job) is None:
        return Seen()  # no replica can go there, and none has to
    wrong = [str(problem) for group in job.groups for problem in preflight.problems_here(renderer.of_job(group))]
    return Seen(
        wrong_here=f"preflight on {place}, where no replica can start: {'; '.join(dict.fromkeys(wrong))}" if wrong else ""
    )
