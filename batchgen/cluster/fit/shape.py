"""What a replica reserves, nodes that are present or may come, and their words. No Ray."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

Resources = Mapping[str, float]  # amounts by Ray's names: CPU, GPU, memory, custom ones


@dataclass(frozen=True)
class Shape:
    """What a replica reserves: the `bundles` of a placement group, none for nothing. A bundle is on one node. `labels`: those
    that each node must have, as Ray's label selectors."""

    bundles: tuple[Resources, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def strategy(self) -> str:
        """Ray's, for the placement group."""
        return "PACK" if len(self.bundles) > 1 else "STRICT_PACK"

    @property
    def total(self) -> dict[str, float]:
        names = dict.fromkeys(name for bundle in self.bundles for name in bundle)
        return {name: sum(bundle.get(name, 0) for bundle in self.bundles) for name in names}

    def actor(self) -> dict[str, object]:
        """The options of a replica's actor that holds the whole shape, which has one node."""
        held = self.total
        options: dict[str, object] = {"num_gpus": held.pop("GPU", 0), "num_cpus": held.pop("CPU", 0)}
        options |= {"memory": held.pop("memory")} if "memory" in held else {}
        return {**options, "resources": held, **({"label_selector": dict(self.labels)} if self.labels else {})}

    def ranks(self) -> tuple[Resources, ...]:
        """The bundles as vLLM's Ray executor takes them: with one GPU each. The rest of a bundle is in the first of its GPUs'.
        Whoever reserves them looks that those of a bundle came to one node, which Ray tries and does not promise."""
        found: list[Resources] = []
        for bundle in self.bundles:
            more = int(bundle.get("GPU", 0)) - 1
            found += [{**bundle, "GPU": 1.0}, *({"GPU": 1.0} for _ in range(more))] if more > 0 else [bundle]
        return tuple(found)

    def __str__(self) -> str:
        """As in `need 4 GPUs on one node`."""
        if not self.bundles:
            return "no resources" + _with(self.labels)
        kinds = Counter(words_of(bundle) for bundle in self.bundles)
        parts = [f"{count} x {words}" if len(self.bundles) > 1 else words for words, count in kinds.items()]
        return " and ".join(parts) + (", each" if len(self.bundles) > 1 else "") + " on one node" + _with(self.labels)


@dataclass(frozen=True)
class Node:
    """A node that is present."""

    id: str
    total: Resources
    free: Resources
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeType:
    """A kind of node that the autoscaler adds. `most`: how many more of them may come, None without a limit. `labels`: None where
    nobody knows which its nodes will have."""

    name: str
    total: Resources
    most: int | None = None
    labels: Mapping[str, str] | None = field(default_factory=dict)


def words_of(resources: Resources) -> str:
    """As in `4 GPUs (H200) and 1 seat`."""
    kinds = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    parts = []
    for name, amount in resources.items():
        if name in ("GPU", "CPU"):
            parts.append(f"{amount:g} {name}{'s' if amount != 1 else ''}")
        elif name == "memory":
            parts.append(f"{amount / 2**30:.3g} GiB of memory")
        elif not name.startswith("accelerator_type:"):
            parts.append(f"{amount:g} {name}")
    if kinds:
        parts[:1] = [f"{parts[0] if parts else 'a GPU'} ({', '.join(kinds)})"]
    return " and ".join(parts)


def _with(labels: Mapping[str, str]) -> str:
    return f" with {', '.join(f'{key}={value}' for key, value in labels.items())}" if labels else ""
