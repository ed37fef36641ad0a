"""What was asked for against what came: by attribute and value, how long the answers are and how they are labelled.

Labels are those of a label job, whose `parsed` columns are attributes. Where its input is the output of a steered job, what was
asked for is in `input_attributes`, and the lengths are of that job's answers."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import InputError, printable
from batchgen.output import parts
from batchgen.output.output import Output

Pairs = Counter[tuple[int, int]]  # how often each pair occurs: the value asked for, and a number of tokens or a label


@dataclass
class Fidelity:
    """One attribute over `rows` answers. By the value asked for: how many answers there are (`asked`), the mean of their tokens,
    and how many of them got each label. `exact` is the share of the labelled answers whose label is the value asked for,
    `mean_error` the mean of label minus value. Correlations are Pearson's; None where one side does not vary."""

    rows: int
    asked: dict[int, int]
    mean_tokens: dict[int, float]
    correlation_with_tokens: float | None
    labels: dict[int, dict[int, int]] = field(default_factory=dict)
    exact: float | None = None
    mean_error: float | None = None
    correlation_with_labels: float | None = None


def fidelity(output: Output) -> dict[str, Fidelity]:
    """By attribute, of the `ok` rows. Raises InputError where none says what was asked for, VerifyError for a damaged part."""
    asked, tokens, labelled = _columns(output)
    columns = ["status", asked, tokens, *(["parsed"] if labelled else [])]
    lengths: dict[str, Pairs] = {}
    labels: dict[str, Pairs] = {}
    for span in sorted(output.parts()):
        table = parts.read_part(output.store, span, columns)
        rows = table.filter(pc.and_(pc.equal(table["status"], "ok"), pc.is_valid(table[asked]))).to_pylist()
        for row in rows:
            for name, value in row[asked].items():
                lengths.setdefault(name, Counter())[value, row[tokens]] += 1
                if name in labelled and row["parsed"][name] is not None:
                    labels.setdefault(name, Counter())[value, row["parsed"][name]] += 1
    return {name: _of(pairs, labels.get(name, Counter())) for name, pairs in lengths.items()}


def _columns(output: Output) -> tuple[str, str, set[str]]:
    """The columns that have what was asked for and how many tokens came, and the attributes that are labelled."""
    schema, parse = output.job.schema, output.job.job.parse_
    parsed = {name for name, kind in parse.kinds.items() if kind in ("integer", "number")} if parse else set()
    for asked, tokens in (("input_attributes", "input_completion_tokens"), ("attributes", "completion_tokens")):
        if {asked, tokens} <= set(schema.names) and pa.types.is_struct(schema.field(asked).type):
            labelled = {inner.name for inner in schema.field(asked).type} & parsed
            if labelled or asked == "attributes":
                return asked, tokens, labelled
    remedy = "steer the job, or label the output of one that is steered"
    raise InputError(f"{output.url}: its rows do not say what was asked for", remedy)


def _of(lengths: Pairs, labels: Pairs) -> Fidelity:
    asked: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    for (value, length), times in lengths.items():
        asked[value] += times
        tokens[value] += length * times
    found = Fidelity(
        rows=asked.total(),
        asked=dict(sorted(asked.items())),
        mean_tokens={value: tokens[value] / times for value, times in sorted(asked.items())},
        correlation_with_tokens=_correlation(lengths),
    )
    if labels:
        found.labels = {value: {} for value in found.asked}
        for (value, label), times in sorted(labels.items()):
            found.labels[value][label] = times
        found.exact = sum(times for (value, label), times in labels.items() if value == label) / labels.total()
        found.mean_error = sum((label - value) * times for (value, label), times in labels.items()) / labels.total()
        found.correlation_with_labels = _correlation(labels)
    return found


def _correlation(pairs: Pairs) -> float | None:
    columns = np.array([*pairs]).T
    if not np.ptp(columns, axis=1).all():
        return None
    (xx, xy), (_, yy) = np.cov(columns, fweights=[*pairs.values()])
    return float(xy / np.sqrt(xx * yy))


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
        mean = "-" if label is None else format(label, ".2f")
        print(f"{printable(name):<20} {value:>6} {answers:>10,} {tokens:>8.1f} {mean:>6}")
    for name, one in ((printable(name), one) for name, one in found.items()):
        for what, r in (("tokens", one.correlation_with_tokens), ("labels", one.correlation_with_labels)):
            if r is not None:
                print(f"{name}: correlation with {what} {r:.2f}")
        if one.exact is not None:
            print(f"{name}: label as asked {one.exact:.0%}, {one.mean_error:+.2f} on average")
