"""Completions -> one part, once.

The part of a span becomes visible, as a whole, by one put_new under the span's name: the first writer wins, a second one throws
its part away. The footer carries the part's counts, so that they can be read again without its rows."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from operator import attrgetter

import pyarrow as pa

from batchgen import logprobs, logs
from batchgen.errors import ErrorCode, RowError, VerifyError, place, safe_message
from batchgen.output.format import Fields, about, known, open_parquet, parse_parquet, read_parquet, to_parquet
from batchgen.output.store import Store
from batchgen.records import Completion, Counts, failed, numbers
from batchgen.records.columns import COLUMNS

DATA = "data"
PIECE_BYTES = 2**30
_LOG = logs.logger("parts")
ERROR = pa.struct([("code", pa.string()), ("detail", pa.string())])
Footer = tuple[Counts, dict[ErrorCode, int]]  # what a part says of itself: its rows and tokens, its errors by code
Key = tuple[int, int, int]  # row, variant, sample


def part_name(span: str) -> str:
    return f"{DATA}/{span}.parquet"


def span_of(part: str) -> str | None:
    """The span of a part's name; None for a name that is no part's."""
    folder, _, file = part.partition("/")
    return file.removesuffix(".parquet") if folder == DATA and file.endswith(".parquet") else None


def key_of(row: Fields) -> Key:
    return row["row"], row["variant"], row["sample"]


def committed(store: Store) -> set[str]:
    """The names of the spans that have a part: one listing, no part is opened."""
    return {span for name in store.list(DATA) if (span := span_of(name)) is not None}


def encode_part(
    prompts: pa.Table, kept: pa.Table, completions: list[Completion], schema: pa.Schema, shard: str, model: str, footer: Footer
) -> bytes:
    """A part with the columns of `schema` (columns.output_schema). `prompts` is a table of blocks.prompt_schema, `kept` the
    carried columns of the span's rows; `completions` stand in the order of `prompts`, `footer` is theirs."""
    of_prompts = _at(prompts, [c.prompt for c in completions])
    carried = _at(kept, of_prompts["source"].to_numpy().tolist())
    own = set(schema.names) - set(kept.column_names)  # a carried column may be called as one of another task
    said = [column.name for column in COLUMNS if column.source == "completion" and column.name in own]
    scored = [name for name in said if schema.field(name).type == logprobs.TYPE]
    plain = pa.struct([schema.field(name) for name in said if name not in (*scored, *numbers.NAMES)])
    fields = attrgetter(*(field.name for field in plain))
    values = pa.chunked_array([pa.array(list(map(fields, piece)), plain) for piece in _pieces(completions)], plain)
    codes, details = pa.array([c.error and (c.error.code, c.error.detail) for c in completions], ERROR).flatten()
    columns = {
        **{column.name: of_prompts[column.name] for column in COLUMNS if column.source in ("prompt", "both")},
        **dict(zip(kept.column_names, carried.columns, strict=True)),
        **{field.name: column for field, column in zip(plain, values.flatten(), strict=True)},
        "shard": pa.repeat(shard, len(completions)),
        "model": pa.repeat(model, len(completions)),
        "status": pa.array(["error" if c.error else "ok" for c in completions], pa.string()),
        "error_code": codes,
        "error_detail": details,
    }
    columns |= {name: logprobs.column([getattr(c, name) for c in completions]) for name in scored}
    for name in numbers.NAMES:
        if name in said:
            columns[name] = numbers.column([getattr(c, name) for c in completions], schema.field(name).type)
    if any(c.sampling for c in completions):  # an attempt changed it
        given = of_prompts["sampling"].to_pylist()
        ran = [dict(c.sampling) if c.sampling else other for c, other in zip(completions, given, strict=True)]
        columns["sampling"] = pa.array(ran, of_prompts["sampling"].type)
    table = pa.table([columns[name] for name in schema.names], schema=schema)
    return to_parquet(table, {"counts": asdict(footer[0]), "errors": footer[1]})


def encode_sound(
    prompts: pa.Table, kept: pa.Table, completions: list[Completion], schema: pa.Schema, shard: str, model: str
) -> tuple[bytes, Footer, list[Completion]]:
    """A part, its footer and its completions, where those that `encode_part` cannot take have an error instead."""

    def encoded(some: list[Completion]) -> tuple[bytes, Footer, list[Completion]]:
        footer = footer_of(some)
        return encode_part(prompts, kept, some, schema, shard, model, footer), footer, some

    def storable(one: Completion) -> Completion:
        try:
            encoded([one])
        except Exception as error:
            problem = logs.internal_error(_LOG, place(shard, prompts["row"][one.prompt].as_py()), error)
            return failed(one.prompt, one.sample, one.attempt - 1, problem)
        return one

    try:
        return encoded(completions)
    except (ValueError, TypeError, OverflowError, pa.ArrowException):
        return encoded([storable(one) for one in completions])


def _pieces(completions: list[Completion]) -> Iterator[list[Completion]]:
    """The completions in as few pieces as the 32-bit offsets of one array of texts allow."""
    piece: list[Completion] = []
    held = 0
    for one in completions:
        size = len(one.response or "") + sum(len(message["content"] or "") for message in one.messages or ())
        size += sum(len(str(attempt["response"] or "")) for attempt in one.attempts or ())
        if piece and held + size > PIECE_BYTES // 4:  # a character has up to four bytes
            yield piece
            piece, held = [], 0
        piece.append(one)
        held += size
    if piece:
        yield piece


def _at(table: pa.Table, rows: list[int]) -> pa.Table:
    """These rows of a table, in pieces: the offsets of one array of texts have 32 bits."""
    if rows == list(range(len(table))):
        return table
    size = max(1, PIECE_BYTES // max(1, table.nbytes))
    pieces = [table.take(pa.array(rows[low : low + size], pa.int64())) for low in range(0, len(rows), size)]
    return pa.concat_tables(pieces) if pieces else table.slice(0, 0)


def footer_of(completions: list[Completion]) -> Footer:
    """The footer of the part of these completions. The prompt of several samples is counted once, copied tokens never."""
    errors = Counter(c.error.code for c in completions if c.error)
    by_prompt = {c.prompt: c for c in reversed(completions)}.values()
    counts = Counts(
        ok=len(completions) - errors.total(),
        error=errors.total(),
        prompt_tokens=sum(c.prompt_tokens - c.copied_prompt_tokens for c in by_prompt),
        completion_tokens=sum(c.completion_tokens - (c.copied_tokens or 0) for c in completions),
        cached_tokens=sum(c.cached_tokens for c in by_prompt),
        deduplicated=sum(c.copied_tokens is not None for c in completions),
        judge_prompt_tokens=sum(c.judge_prompt_tokens for c in completions),
        judge_tokens=sum(c.judge_tokens for c in completions),
    )
    return counts, dict(errors)


def first_errors(completions: list[Completion], most: int = 5) -> list[tuple[RowError, int]]:
    """The first of each of the first causes, and how many rows have it."""
    found: dict[tuple[str, str], RowError] = {}
    rows = Counter[tuple[str, str]]()
    for error in (c.error for c in completions if c.error):
        cause = error.code, error.cause
        rows[cause] += 1
        if len(found) < most:
            found.setdefault(cause, error)
    return [(error, rows[cause]) for cause, error in found.items()]


def commit(store: Store, span: str, part: bytes) -> bool:
    """Make the part visible. False where the span already had one. Raises StoreError."""
    return store.put_new(part_name(span), part)


def sha256(data: bytes | None) -> str:
    return hashlib.sha256(data or b"").hexdigest()


def read_part(store: Store, span: str, columns: list[str] | None = None) -> pa.Table:
    """A committed part, its pages checked. Read once more where that fails: a store may answer short for a moment. Raises
    VerifyError for a damaged part, NewerFormat."""
    with contextlib.suppress(VerifyError):
        return read_parquet(store, part_name(span), columns)
    return read_parquet(store, part_name(span), columns)


def tables(store: Store, span: str, most: int) -> Iterator[pa.Table]:
    """A committed part in tables of at most `most` rows, its pages checked as they are read. Raises VerifyError, NewerFormat."""
    name = part_name(span)
    for again in (True, False):
        data = store.get(name)
        try:
            parse_parquet(data, f"{store.url}/{name}", name, [])
        except VerifyError:
            if again:
                continue
            raise
        break
    try:
        for batch in open_parquet(data).iter_batches(most, use_threads=False):
            yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise VerifyError(f"{name}: damaged: {safe_message(error, 200)}") from None


def read_footer(store: Store, span: str) -> Footer:
    """The footer of a committed part. Raises VerifyError for a damaged one, NewerFormat."""
    if (footer := footer_in(read_part(store, span, []))) is None:
        raise VerifyError(f"{part_name(span)}: damaged: no counts in it")
    return footer


def footer_in(part: pa.Table) -> Footer | None:
    """The footer of a part that has been read; None where there are no counts in it."""
    fields = about(part)
    counts, errors = fields.get("counts"), fields.get("errors")
    if not isinstance(counts, dict) or not isinstance(errors, dict) or not {"ok", "error"} <= counts.keys():
        return None
    sound = all(type(number) is int and 0 <= number < 2**63 for number in (*counts.values(), *errors.values()))
    return (known(Counts, counts), errors) if sound else None
