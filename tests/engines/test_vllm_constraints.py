"""Constraints that keep vLLM's compilers busy without end are errors of their rows; those of people are not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.engines.base import Request
from batchgen.engines.restarting import RestartingEngine
from batchgen.engines.vllm import KIND
from batchgen.engines.vllm_sampling.constraints import too_much
from batchgen.errors import JobError
from batchgen.records import Answer
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer
from tests.support import clock
from tests.support.planning import make_job
from tests.support.rendering import TINY, error_of, one
from tests.support.replicas import Backwards, blocks, prepared, ran, replica

TEXT = {"type": "string"}


def properties(number: int, schema: Any = TEXT, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{each}": schema for each in range(number)}, **more}


def nested(levels: int) -> dict[str, Any]:
    return {"items": nested(levels - 1)} if levels > 1 else {}


def arrays(*most: int, key: str = "maxItems") -> dict[str, Any]:
    return {"type": "array", key: most[0], "items": arrays(*most[1:], key=key)} if most else TEXT


def chain(links: int) -> dict[str, Any]:
    made = {f"d{each}": {"type": "array", "items": {"$ref": f"#/$defs/d{each + 1}"}} for each in range(links)}
    return {"$ref": "#/$defs/d0", "$defs": made | {f"d{links}": TEXT}}


def doubling(rules: int) -> str:
    return "\n".join(["root ::= r0", *(f"r{each} ::= r{each + 1} r{each + 1}" for each in range(rules)), f'r{rules} ::= "a"'])


REFUSED = {
    "depth": ({"json": nested(65)}, "the schema is nested more than 64 levels deep"),
    "nodes": ({"json": properties(5_000)}, "the schema has more than 5000 objects and lists"),
    "a chain of $ref": ({"json": chain(600)}, "the schema's $ref lead through more than 1000 levels"),
    "anchors": ({"json": {"anyOf": [{"$ref": f"#a{each}"} for each in range(400)]}}, "the schema's $ref lead through more"),
    "maxItems": ({"json": arrays(10_000_000)}, "minItems and maxItems of the schema add up to more than 50000"),
    "minItems": ({"json": arrays(100_000, key="minItems")}, "minItems and maxItems of the schema add up"),
    "float": ({"json": arrays(1e300, key="minItems")}, "minItems and maxItems of the schema add up"),  # type: ignore[arg-type]
    "many arrays": ({"json": properties(300, arrays(1_000))}, "minItems and maxItems of the schema add up"),
    "nested items": ({"json": arrays(1_000, 1_000, 1_000)}, "or 1000000 nested"),
    "maxLength": ({"json": {"type": "string", "maxLength": 10_000_000}}, "minLength or maxLength of the schema is more than"),
    "minProperties": ({"json": properties(500, minProperties=100)}, "minProperties or maxProperties of the schema are over more"),
    "patternProperties": (
        {"json": properties(300, patternProperties={"^x": {}})},
        "the schema has patternProperties, and too many",
    ),
    "nested with patternProperties": (
        {"json": properties(10, properties(10, properties(10)), patternProperties={"^x": TEXT})},
        "the schema has patternProperties, and too many",
    ),
    "anything with patternProperties": (
        {"json": properties(20, {}, patternProperties={"^x": TEXT})},
        "the schema has patternProperties, and too many",
    ),
    "allOf": ({"json": {"allOf": [{"pattern": f".*a.{{{each}}}"} for each in range(30)]}}, "allOf of the schema combines more"),
    "pattern": ({"json": {"pattern": "(a{0,1000}){0,1000}"}}, "a pattern of the schema: the regex repeats more than 200000"),
    "pattern of keys": ({"json": {"patternProperties": {"a{999999999}": {}}}}, "a pattern of the schema: the regex repeats"),
    "nested repetition": ({"regex": "(a{0,1000}){0,1000}"}, "the regex repeats more than 200000 characters"),
    "three of them": ({"regex": "((a{99}){99}){99}"}, "the regex repeats more than 200000 characters"),
    "repeated quantifiers": ({"regex": "a{999}{999}"}, "the regex repeats more than 200000 characters"),
    "digits": ({"regex": "a{" + "9" * 5_000 + "}"}, "the regex repeats more than 200000 characters"),
    "quantifiers": ({"regex": "a?" * 5_000 + "a" * 5_000}, "the regex has more than 500 quantifiers"),
    "a long regex": ({"regex": "ab" * 100_000}, "the regex has more than 65536 characters"),
    "rules": ({"grammar": doubling(1_000)}, "the rules of the grammar, each in place of its name, are more than 1000000000"),
}
LADDER = "\n".join(f"e{each}: e{each + 1} | e{each} /[*+-]/ e{each + 1}" for each in range(15)) + '\ne15: "x" | "(" e0 ")"'
RULES = [f"r{each}" for each in range(5_000)]
TAKEN: dict[str, Any] = {
    "1,000 properties": {"json": properties(1_000, required=["p0"], additionalProperties=False)},
    "1,000 nullable properties": {"json": properties(1_000, {"anyOf": [TEXT, {"type": "null"}]})},
    "1,000 long texts": {"json": properties(1_000, {"type": "string", "maxLength": 100_000})},
    "1,000 dates": {"json": properties(1_000, {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"})},
    "10,000 values": {"json": {"enum": [f"value {each}" for each in range(10_000)]}},
    "100 definitions": {"json": chain(100)},
    "patternProperties": {"json": properties(20, patternProperties={"^x-": {}})},
    "recursion": {"json": {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [TEXT, {"items": {"$ref": "#/$defs/a"}}]}}}},
    "the root": {"json": properties(3, {"$ref": "#"})},
    "depth": {"json": nested(64)},
    "items": {"json": arrays(1_000, 100)},
    "property names": {"json": {"properties": dict.fromkeys(("minItems", "pattern", "$ref", "maxLength", "allOf"), TEXT)}},
    "no schema": {"json": {"minItems": True, "maxLength": None, "pattern": 5, "properties": [], "allOf": {}}},
    "a long text": {"regex": "[a-z]{1,100000}"},
    "classes": {"regex": r"[](){}*+?]{3}[^]{9}]\[\({999}" + "[a{9}]" * 300},
    "words": {"regex": "|".join(f"word{each}" for each in range(5_000))},
    "unbalanced": {"regex": "))((a]{"},
    "choices": {"choice": [f"value {each}" for each in range(10_000)]},
    "rules": {"grammar": "\n".join([f"root ::= {' | '.join(RULES)}", *(f'{name} ::= "{name}"' for name in RULES)])},
    "open brackets": {"regex": "[" * 2**16},
    "open brackets and quotes": {"grammar": "[" * 2**17 + "\n" + '"' * 2**17},
    "one long name": {"grammar": "a" * 2**18},
    "white space": {"grammar": " " * 2**17 + "\n" * 2**17},
    "a ladder of operators": {"grammar": LADDER},
    "recursive rules": {"grammar": 'root ::= root root | "a"'},
    "empty": {"grammar": "no rules"},
}


@pytest.mark.parametrize(("constraint", "cap"), REFUSED.values(), ids=REFUSED)
def test_a_constraint_over_a_cap_is_the_error_of_its_row(constraint: dict[str, Any], cap: str) -> None:
    made = make_job("in.jsonl", engine={"kind": "vllm"}, model={"source": str(TINY)})
    renderer = Renderer(made, load_model(made.model), KIND.capabilities)
    code, detail = error_of(one(renderer, prompt="a", sampling={"structured_outputs": constraint}))
    assert (code, detail.startswith("in.jsonl:1: sampling: structured_outputs: ")) == ("input", True)
    assert cap in detail
    with pytest.raises(JobError, match=r"^sampling\.structured_outputs: "):
        KIND.check(make_job("x", engine={"kind": "vllm"}, sampling={"structured_outputs": constraint}))


@pytest.mark.parametrize("constraint", TAKEN.values(), ids=TAKEN)
def test_a_constraint_of_people_is_taken(constraint: dict[str, Any]) -> None:
    assert too_much(json.dumps(constraint)) is None


def test_a_row_whose_constraint_is_compiled_without_end_holds_up_no_other(tmp_path: Path) -> None:
    class Compiling(Backwards):
        async def probe(self) -> None: ...

        async def generate(self, request: Request) -> list[Answer]:
            if request.sampling.structured_outputs is not None:
                await asyncio.Event().wait()
            return [Answer("fine", 1, "stop")]

    constrained = {"prompt": "a", "sampling": {"structured_outputs": {"regex": "a"}}}
    made = prepared(tmp_path, [constrained, *({"prompt": f"row {each}"} for each in range(50))], spans={"rows": 100})
    worker = replica(made, RestartingEngine(lambda: Compiling(4), 60, 0.5))
    receipt = ran(worker, blocks(made)[0], run=clock.run)
    assert (receipt.counts.ok, receipt.errors) == (50, {"timeout": 1})
