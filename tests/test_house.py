"""The house: rooms and their floors, what each may import, and how long things may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "batchgen"
FLOORS = """
errors | jsontext logs logprobs registry | job | records | render | output | read | plan | engines | tasks | replica
cluster | export
prepare | check init | terminal | run | generate | help | cli | __main__ __init__
"""
"""Rooms from the lowest floor to the highest; those of one floor do not know each other."""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS.replace("\n", "|").strip("|").split("|")) for room in rooms.split()}
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """The modules that a file imports, in functions too; names of a package as modules of their own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def ours(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports."""
    for name, _ in imports(path):
        parts = name.split(".")[1:] if name.split(".")[0] == "batchgen" else []
        known = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        yield from [module for each in known for module in (each, f"{each}.__init__") if module in FILES][:1]


def room(module: str) -> str:
    return module.partition(".")[0]


def refuse(found: set[str]) -> None:
    assert sorted(found) == []


def test_every_room_has_a_floor_and_no_import_leads_up() -> None:
    assert {room(module) for module in FILES} - {"__init__", "__main__"} <= FLOOR.keys()
    assert len(FLOOR.keys() - {"__init__", "__main__"}) <= 24
    arrows = {(room(module), room(other)) for module, path in FILES.items() for other in ours(path)}
    refuse({f"{one} -> {other}" for one, other in arrows if one != other and FLOOR[other] >= FLOOR[one]})


def test_the_files_of_a_room_do_not_import_in_a_circle() -> None:
    inside = {module: {other for other in ours(path) if room(other) == room(module)} for module, path in FILES.items()}

    def reached(start: str) -> set[str]:
        found, left = set[str](), [*inside[start]]
        while left:
            if (module := left.pop()) not in found:
                found.add(module)
                left += inside[module]
        return found

    refuse({f"circle of {module}" for module in inside if module in reached(module)})


@pytest.mark.parametrize(
    ("importer", "names"),
    [
        (r"cluster\.", {"ray"}),
        (r"engines\.vllm", {"vllm"}),
        (r"(?!job\.)", {f"batchgen.{name}" for name in FLOOR if name not in ("job", "errors", "jsontext")}),
        (r"(?!engines\.)", {"batchgen.output"}),
    ],
)
def test_a_room_keeps_to_what_it_is_for(importer: str, names: set[str]) -> None:
    """Only files that match import what is named."""
    others = {module: path for module, path in FILES.items() if not re.match(importer, module)}
    found = {(module, name) for module, path in others.items() for name, _ in imports(path)}
    refuse({f"{module} imports {name}" for module, name in found if any(f"{name}.".startswith(f"{one}.") for one in names)})


def test_what_ray_keeps_to_itself_is_named_in_one_file() -> None:
    found = sorted(module for module, path in FILES.items() if re.search("_private|_internal|_raylet", path.read_text()))
    refuse({f"private names of Ray in {module}" for module in found[1:]})


def test_files_folders_and_the_package_stay_short() -> None:
    lines = {module: path.read_text().count("\n") for module, path in FILES.items()}
    refuse({f"{module}: over 300 lines" for module, count in lines.items() if count > 300})
    folders = {module.rpartition(".")[0] for module in lines} - {""}
    sums = {each: sum(count for module, count in lines.items() if module.rpartition(".")[0] == each) for each in folders}
    refuse({f"{folder}/: over 1,300 lines" for folder, count in sums.items() if count > 1_300})
    refuse({"over 23,000 lines"} if sum(lines.values()) > 23_000 else set())


def test_few_values_are_of_any_type() -> None:
    code = [line for path in FILES.values() for line in path.read_text().splitlines() if not re.match(r"\s*(from|import) ", line)]
    refuse({"Any is not rare"} if sum(len(re.findall(r"\bAny\b", line)) for line in code) >= 140 else set())
