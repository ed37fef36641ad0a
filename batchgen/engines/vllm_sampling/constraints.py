"""Constraints (`structured_outputs`) that are too much for the compilers of vLLM (xgrammar, llguidance, outlines).

vLLM parses a constraint in the replica's own event loop, where no limit of time ends it, and then compiles it in a few threads of
the engine. A schema of some kB can keep both busy for minutes, or overflow a stack and end the process. The caps are by structure
and far over what people write: at each of them the parsing took less than a second (xgrammar 0.2.8, llguidance 1.7.6)."""

import re
from collections.abc import Iterator
from typing import Any

from batchgen.jsontext import loads

MOST_LEVELS = 64  # vLLM's own
MOST_NODES = 5_000  # 1,000 nullable properties are 4,000; 5,000 properties took xgrammar 18 s
MOST_REF_LEVELS = 1_000  # llguidance overflows the stack at about 3,000
MOST_ITEMS, MOST_NESTED_ITEMS = 50_000, 10**6  # llguidance takes 1 s and 100 MB for arrays of 100,000 items
MOST_LENGTH = 10**6
MOST_COUNTED = 10_000  # the sum of squares of the properties that minProperties counts: 100 took xgrammar 1 s, 200 no end of time
MOST_WITH_PATTERNS, ANYTHING = 2_500, 90
"""Of schemas that outlines gets, which writes one regex with every pair of optional properties, and what may be anything as long
as 90 of them: 50 properties took 0.5 s, 300 took 14 s. `$ref` is followed three times."""
MOST_COMBINED = 8  # llguidance intersects the patterns of allOf: 30 took no end of time
MOST_REGEX, MOST_QUANTIFIERS, MOST_REPEATS = 2**16, 500, 200_000  # 5,000 times `a?` took xgrammar no end of time
MOST_EXPANSIONS = 10**9  # 1,000 rules of two references each took llguidance no end of time
_COUNTS = ("minItems", "maxItems")
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]?|\{(\d+)(,(\d*))?\}|.", re.DOTALL)
_RULE = re.compile(r"^[ \t]*[?!]?([\w-]++)(?:\.\d+)?[ \t]*(?:::=|:(?!:))", re.MULTILINE)
_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*+"?|\[(?:\\.|[^\]\\\n])*+\]?|(?:#|//).*')


def too_much(constraint: str) -> str | None:
    """Which cap a constraint is over, in words; None where it is over none. `constraint` is that of a Sampling."""
    [(kind, value)] = loads(constraint).items()
    if kind == "json":
        return next(_of_schema(value), None)
    if kind == "regex":
        return _of_regex(value)
    return _of_grammar(value) if kind == "grammar" else None


def _of_schema(schema: object) -> Iterator[str]:
    nodes = items = counted = properties = 0
    nested, pairs, refs, has_patterns = 1, 1, set[str](), False
    left: list[tuple[object, int, int, int]] = [(schema, 1, 1, 1)]
    while left:
        node, level, product, width = left.pop()
        if not isinstance(node, dict | list):
            continue
        nodes += 1
        if level > MOST_LEVELS:
            yield f"the schema is nested more than {MOST_LEVELS} levels deep"
            return
        if nodes > MOST_NODES:
            yield f"the schema has more than {MOST_NODES} objects and lists"
            return
        if isinstance(node, dict):
            repeats = max((_number(node.get(name)) for name in _COUNTS), default=0)
            items, product = items + repeats, product * max(1, repeats)
            nested = max(nested, product)
            named = node.get("properties")
            size = len(named) if isinstance(named, dict) else 0
            is_open = not any(isinstance(each, dict | list) for each in node.values()) and node.get("type") in (
                None,
                "object",
                "array",
            )
            properties, width = properties + size + ANYTHING * (is_open and "$ref" not in node), width * max(1, size)
            pairs = max(pairs, width)
            if "minProperties" in node or "maxProperties" in node:
                counted += size**2
            has_patterns = has_patterns or "patternProperties" in node
            yield from _of_texts(node)
            if isinstance(node.get("$ref"), str):
                refs.add(node["$ref"])
        left += [(each, level + 1, product, width) for each in (node.values() if isinstance(node, dict) else node)]
    whole = _levels(schema)
    if refs and sum(_levels(found) if (found := _at(schema, ref)) is not None else whole for ref in refs) > MOST_REF_LEVELS:
        yield f"the schema's $ref lead through more than {MOST_REF_LEVELS} levels"
    if items > MOST_ITEMS or nested > MOST_NESTED_ITEMS:
        yield f"minItems and maxItems of the schema add up to more than {MOST_ITEMS}, or {MOST_NESTED_ITEMS} nested"
    if counted > MOST_COUNTED:
        yield f"minProperties or maxProperties of the schema are over more than {int(MOST_COUNTED**0.5)} properties"
    if has_patterns and properties * pairs ** (3 if refs else 1) > MOST_WITH_PATTERNS:
        yield "the schema has patternProperties, and too many other properties for the regex that is made of both"


def _of_texts(node: dict[str, Any]) -> Iterator[str]:
    """Of the texts that one object of a schema speaks of."""
    if max(_number(node.get("minLength")), _number(node.get("maxLength"))) > MOST_LENGTH:
        yield f"minLength or maxLength of the schema is more than {MOST_LENGTH}"
    keys = node.get("patternProperties")
    for pattern in (node.get("pattern"), *(keys if isinstance(keys, dict) else ())):
        if isinstance(pattern, str) and (found := _of_regex(pattern)):
            yield f"a pattern of the schema: {found}"
    several = node.get("allOf")
    if isinstance(several, list) and len(several) > 1 and _patterns(several) > MOST_COMBINED:
        yield f"allOf of the schema combines more than {MOST_COMBINED} patterns"


def _patterns(node: object) -> int:
    """The patterns in a part of a schema."""
    if isinstance(node, dict):
        return isinstance(node.get("pattern"), str) + sum(map(_patterns, node.values()))
    return sum(map(_patterns, node)) if isinstance(node, list) else 0


def _levels(node: object) -> int:
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
    return 0 if inner is None else 1 + max(map(_levels, inner), default=0)


def _at(schema: object, ref: str) -> object:
    """What a $ref names inside the schema; None for any other name."""
    if not ref.startswith("#/"):
        return schema if ref == "#" else None
    for key in ref[2:].split("/"):
        schema = schema.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(schema, dict) else None
    return schema


def _number(value: object) -> int:
    """A bound as a number; what no compiler takes is 0."""
    return int(min(value, 1e12)) if isinstance(value, int | float) and value > 0 else 0


def _of_regex(pattern: str) -> str | None:
    if len(pattern) > MOST_REGEX:
        return f"the regex has more than {MOST_REGEX} characters"
    quantifiers, sizes, last = 0, [0], 0  # of the open groups: their atoms, repetitions unrolled
    for piece in _PIECE.finditer(pattern):
        text = piece[0]
        if piece[1] or text in ("*", "+", "?"):
            quantifiers += 1
            if piece[1]:
                most = max(int(piece[1][:9]), int((piece[3] or "0")[:9]), 1)
                sizes[-1] += last * (most - 1)
                last *= most
        elif text == "(":
            sizes.append(0)
            last = 0
        elif text == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif text != "|":
            sizes[-1] += 1
            last = 1
        if quantifiers > MOST_QUANTIFIERS:
            return f"the regex has more than {MOST_QUANTIFIERS} quantifiers"
        if sizes[-1] > MOST_REPEATS:
            return f"the regex repeats more than {MOST_REPEATS} characters, nested repetitions multiplied"
    return None


def _of_grammar(grammar: str) -> str | None:
    plain = _QUOTED.sub(" ", grammar)
    found = list(_RULE.finditer(plain))
    ends = [*(rule.start() for rule in found[1:]), len(plain)]
    bodies = {rule[1]: plain[rule.end() : end] for rule, end in zip(found, ends, strict=False)}
    uses = {name: [word for word in re.findall(r"[\w-]+", body) if word in bodies] for name, body in bodies.items()}
    sizes: dict[str, int] = {}
    for first in uses:
        path = [] if first in sizes else [(first, iter(uses[first]))]
        while path:
            name, left = path[-1]
            sizes.setdefault(name, 1)  # what a rule that is not done yet counts inside itself
            if (inner := next((each for each in left if each not in sizes), None)) is not None:
                path.append((inner, iter(uses[inner])))
                continue
            path.pop()
            sizes[name] = min(sum(sizes[each] for each in uses[name]) or 1, MOST_EXPANSIONS + 1)
    if max(sizes.values(), default=0) > MOST_EXPANSIONS:
        return f"the rules of the grammar, each in place of its name, are more than {MOST_EXPANSIONS}"
    return None
