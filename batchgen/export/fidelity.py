"""What was asked for against what came: by attribute and value, how long the answers are and how they are labelled.

A label job, whose `parsed` columns are attributes, says how answers are labelled: where its input is the output of a steered job,
what was asked for is in `input_attributes`, and the lengths are of that job's answers.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import InputError
from batchgen.output import parts
from batchgen.output.output import Output


@dataclass
class Fidelity:
    """Of one attribute, over `rows` answers: for each value that was asked for, how many answers there are (`asked`), the mean of
    their tokens, and how many of them got each label. `exact` is the share of the labelled answers whose label is the value asked
    for, `mean_error` the mean of label minus value. Correlations are Pearson's; null where one side does not vary."""

    rows: int
    asked: dict[int, int]
    mean_tokens: dict[int, float]
    correlation_with_tokens: float | None
    labels: dict[int, dict[int, int]] = field(default_factory=dict)
    exact: float | None = None
    mean_error: float | None = None
    correlation_with_labels: float | None = None


def fidelity(output: Output) -> dict[str, Fidelity]:
    """By attribute, from the `ok` rows of an output. Raises InputError where no row says what was asked for, VerifyError for a
    damaged part."""
    asked, labelled = _columns(output)
    tokens = asked.replace("attributes", "completion_tokens")
    columns = ["status", asked, tokens, *(["parsed"] if labelled else [])]
    lengths: dict[str, Counter[tuple[int, int]]] = {}
    labels: dict[str, Counter[tuple[int, int]]] = {}
    for span in sorted(output.parts()):
        table = parts.read_part(output.store, span, columns)
        rows = table.filter(pc.and_(pc.equal(table["status"], "ok"), pc.is_valid(table[asked]))).to_pylist()
        for row in rows:
            for name, value in row[asked].items():
                lengths.setdefault(name, Counter())[value, row[tokens]] += 1
                if name in labelled and row["parsed"][name] is not None:
                    labels.setdefault(name, Counter())[value, row["parsed"][name]] += 1
    return {name: _of(pairs, labels.get(name, Counter())) for name, pairs in lengths.items()}


def _columns(output: Output) -> tuple[str, set[str]]:
    """The column that has what was asked for, and the attributes that are labelled."""
    schema, parse = output.job.schema, output.job.job.parse_
    kinds = parse.kinds if parse else {}
    parsed = {name for name, kind in kinds.items() if kind in ("integer", "number")}
    for column in ("input_attributes", "attributes"):
        if column in schema.names and pa.types.is_struct(schema.field(column).type):
            names = {inner.name for inner in schema.field(column).type}
            lengths = column.replace("attributes", "completion_tokens")
            if lengths in schema.names and (column == "attributes" or names & parsed):
                return column, names & parsed
    raise InputError(
        f"{output.url}: its rows do not say what was asked for", "steer the job, or label the output of one that is steered"
    )


def _of(lengths: Counter[tuple[int, int]], labels: Counter[tuple[int, int]]) -> Fidelity:
    asked: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    for (value, length), times in lengths.items():
        asked[value] += times
        tokens[value] += length * times
    values = sorted(asked)
    found = Fidelity(
        rows=asked.total(),
        asked={value: asked[value] for value in values},
        mean_tokens={value: tokens[value] / asked[value] for value in values},
        correlation_with_tokens=_correlation(lengths.items()),
    )
    if labels:
        marks = sorted({label for _, label in labels})
        found.labels = {value: {label: labels[value, label] for label in marks if labels[value, label]} for value in values}
        found.exact = sum(times for (value, label), times in labels.items() if value == label) / labels.total()
        found.mean_error = sum((label - value) * times for (value, label), times in labels.items()) / labels.total()
        found.correlation_with_labels = _correlation(labels.items())
    return found


def _correlation(pairs: Iterable[tuple[tuple[int, int], int]]) -> float | None:
    """Pearson's r of pairs that are there so many times; exact sums of integers, so that nothing cancels."""
    n = sx = sy = sxx = syy = sxy = 0
    for (x, y), times in pairs:
        n, sx, sy = n + times, sx + x * times, sy + y * times
        sxx, syy, sxy = sxx + x * x * times, syy + y * y * times, sxy + x * y * times
    spread = (n * sxx - sx * sx) * (n * syy - sy * sy)
    return (n * sxy - sx * sy) / math.sqrt(spread) if spread else None


def table(found: dict[str, Fidelity]) -> list[tuple[str, int, int, float, float | None]]:
    """Attribute, value, answers, mean tokens, mean label or None; of the attributes that vary or are labelled, else of all."""
    telling = {name: one for name, one in found.items() if len(one.asked) > 1 or one.labels} or found
    lines = []
    for name, one in telling.items():
        for value, answers in one.asked.items():
            labels = one.labels.get(value) or {}
            mean = sum(label * times for label, times in labels.items()) / sum(labels.values()) if labels else None
            lines.append((name, value, answers, one.mean_tokens[value], mean))
    return lines


def print_fidelity(found: dict[str, Fidelity]) -> None:
    """What was asked against what came, a line each, and what holds of each attribute as a whole."""
    print(f"{'attribute':<20} {'asked':>6} {'answers':>10} {'tokens':>8} {'label':>6}")
    for name, value, answers, tokens, label in table(found):
        print(f"{name:<20} {value:>6} {answers:>10,} {tokens:>8.1f} {'-' if label is None else format(label, '.2f'):>6}")
    for name, one in found.items():
        for what, r in (("tokens", one.correlation_with_tokens), ("labels", one.correlation_with_labels)):
            if r is not None:
                print(f"{name}: correlation with {what} {r:.2f}")
        if one.exact is not None:
            print(f"{name}: label as asked {one.exact:.0%}, {one.mean_error:+.2f} on average")
