"""The jobs of one cluster, as they see each other: each leaves a note of what it wants with the cluster's head, and reads the
others'. A note goes with its driver. A job whose replicas reserve nothing leaves none."""

import time
import uuid
from collections.abc import Sequence

from pydantic import TypeAdapter
from ray.exceptions import RayError

from batchgen import logs
from batchgen.cluster.fit.fits import capacity
from batchgen.cluster.fit.shape import Node
from batchgen.cluster.placement import Group, Placement
from batchgen.cluster.policy.division import Note, Part, Wish, part
from batchgen.cluster.state.ray_adapter import forget, note, notes
from batchgen.errors import safe_message

LOOK_SECONDS = 5.0  # between looks at what the others want; what this one wants is told at once
_NOTES, _LOG = TypeAdapter(Note), logs.logger("rivals")


class Rivals:
    """`others`: the jobs that were there at the last look."""

    def __init__(self, placement: Placement) -> None:
        self._groups, self._name, self._born = placement.groups, uuid.uuid4().hex, time.time()
        self.others: dict[str, Note] = {}
        self._parts: list[Part | None] = [None] * len(placement.groups)
        self._world: object = None  # what the parts were computed from
        self._told: Note | None = None
        self._looked = float("-inf")

    def parts(self, wants: Sequence[int], nodes: Sequence[Node]) -> list[Part | None]:
        """This job's part of the nodes, for each group of its placement; `wants`: the replicas that each could use."""
        if not any(group.shapes[0].bundles for group in self._groups):
            return self._parts
        wishes = tuple(_wish(group, most, nodes) for group, most in zip(self._groups, wants, strict=True))
        replicas = self._groups[0].job.replicas
        own = Note(self._born, wishes, replicas.share, replicas.priority)
        try:
            self._tell(own, time.monotonic())
        except RayError as error:  # the next look will tell
            _LOG.debug("the head did not say what other jobs want: %s", safe_message(error))
        world = {**self.others, self._name: own}, [(node.id, node.total, node.labels) for node in nodes]
        if world != self._world:
            self._world, before = world, self._parts
            self._parts = [part(world[0], self._name, number, nodes) for number in range(len(wishes))]
            if before != self._parts:
                _LOG.info("%d other jobs on the cluster; the part of this one: %s", len(self.others), self._parts)
        return self._parts

    def leave(self) -> None:
        """Want nothing any more."""
        try:
            if self._told is not None:
                forget(self._name)
        except RayError as error:
            _LOG.debug("the head did not take the note back: %s", safe_message(error))

    def _tell(self, own: Note, now: float) -> None:
        due = now - self._looked >= LOOK_SECONDS
        if due or own != self._told:
            note(self._name, _NOTES.dump_json(own))
            self._told = own
        if due:
            self._looked = now
            self.others = {name: found for name, text in notes().items() if name != self._name and (found := _read(text))}


def _wish(group: Group, most: int, nodes: Sequence[Node]) -> Wish:
    """In the first shape that the nodes hold."""
    shape = next((one for one in group.shapes if capacity([one], nodes, upto=1, total=True)), group.shapes[0])
    return Wish(shape.bundles, most, group.job.replicas.min, shape.labels)


def _read(text: bytes) -> Note | None:
    """None for a note of another release that cannot be read."""
    try:
        return _NOTES.validate_json(text)
    except ValueError as error:
        _LOG.debug("a note cannot be read: %s", safe_message(error))
        return None
