"""The job's `accept`: what an answer must be like. Each rule is code of the job's over text of a model's, so none runs in the
event loop, and each has a limit of time. What keeps a rule from judging an answer is a reason against the answer, with its
cause."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from batchgen.errors import BadRow, JobError
from batchgen.job.accept import Accept
from batchgen.job.job import Job
from batchgen.records import Data, Prompt
from batchgen.records.columns import COLUMNS, schema_of
from batchgen.render.renderer import Renderer
from batchgen.tasks.accept.fit import RULE_SECONDS, FitRule
from batchgen.tasks.accept.judge import Ask, JudgeRule
from batchgen.tasks.accept.sql import SqlRule
from batchgen.tasks.candidate import Candidate

THREADS = 16
_LATER = {"sample", "token_logprobs", "prompt_logprobs", "seconds", "attempt", "attempts"}
NOT_YET = _LATER | {column.name for column in COLUMNS if column.source not in ("prompt", "completion")}
"""Columns of the output that an answer does not have while it is judged."""


class Acceptance:
    """The rules of a job. Raises JobError for one that cannot be compiled."""

    def __init__(self, spec: Accept, renderer: Renderer) -> None:
        self._job, self._sql_text = renderer.job, spec.sql
        self._fit = FitRule(spec, "accept")
        self._function = renderer.functions.accept
        self._judge = None if spec.judge is None else JudgeRule(spec.judge, renderer)
        self._sql = None if spec.sql is None else SqlRule(spec.sql)
        self._threads = ThreadPoolExecutor(THREADS, "accept")

    def refuse_unfit(self, carried: pa.Schema) -> None:
        """Raises JobError for a rule over columns that an output with these carried columns does not have."""
        schema = _schema(self._job, carried)
        if self._judge is not None:
            self._judge.refuse_unfit(set(schema.names))
        try:
            if self._sql is not None:
                self._sql.refuse_unfit(schema)
        except ImportError:
            raise JobError("accept.sql needs DuckDB", "pip install 'batchgen[query]'") from None
        except (ValueError, TimeoutError) as error:
            raise JobError(f"accept.sql: {error}", f"the columns are {', '.join(schema.names)}") from None

    async def refuse(self, prompt: Prompt, candidate: Candidate, ask: Ask) -> None:
        """Raises BadRow (rejected) that says which rule the candidate's answer does not keep. `ask` is asked where there is a
        judge, after the other rules."""
        cause = await asyncio.get_running_loop().run_in_executor(self._threads, self._mistake, prompt, candidate)
        if cause is None and self._judge is not None:
            cause = await self._judge.mistake(prompt, _row(prompt, candidate), ask, self._threads)
        if cause is not None:
            raise BadRow("rejected", cause)

    def _mistake(self, prompt: Prompt, candidate: Candidate) -> str | None:
        cause = self._fit.mistake(candidate.text)
        if cause is None and self._sql is not None:
            cause = self._broken_sql(self._sql, prompt, candidate)
        if cause is None and self._function is not None:
            try:
                cause = self._function.objection(_row(prompt, candidate))
            except BadRow as bad:
                cause = str(bad)
            cause = cause and f"accept.function: {cause}"
        return cause

    def _broken_sql(self, rule: SqlRule, prompt: Prompt, candidate: Candidate) -> str | None:
        shown = " ".join(str(self._sql_text).split())
        try:
            found = rule.holds(_table(self._job, prompt, candidate), RULE_SECONDS)
        except TimeoutError:
            return f"accept.sql: not done after {RULE_SECONDS:g} s: ask for less of a row"
        except ValueError as error:
            return f"accept.sql: {error}: TRY_CAST and TRY make null of what does not fit"
        if found is None:
            return f"accept.sql: {shown} is null: coalesce(..., false) says what a missing value means"
        return None if found else f"accept.sql: {shown} is false"


def _row(prompt: Prompt, candidate: Candidate) -> Data:
    """What a function or a judge's template gets."""
    return {**candidate.row(prompt), "parsed": candidate.parsed}


def _schema(job: Job, carried: pa.Schema) -> pa.Schema:
    """The columns of a row while its answer is judged."""
    schema = schema_of(job, carried)
    return pa.schema([field for field in schema if field.name not in NOT_YET or field.name in carried.names])


def _table(job: Job, prompt: Prompt, candidate: Candidate) -> pa.Table:
    """The row of a candidate. Raises ValueError and pyarrow's errors for an answer that no table holds."""
    carried = prompt.columns if prompt.columns is not None else pa.table({})
    completion = candidate.completion(0, 0, 0, 0.0)
    of_prompt = {column.name for column in COLUMNS if column.source == "prompt"}
    columns = {}
    schema = _schema(job, carried.schema)
    for field in schema:
        if field.name in carried.column_names:
            columns[field.name] = carried[field.name]
        else:
            value = getattr(prompt if field.name in of_prompt else completion, field.name)
            columns[field.name] = pa.array([value], field.type)
    return pa.table(columns, schema=schema)
