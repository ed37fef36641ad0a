"""Job -> Prepared: everything that is looked at before anything is written or started. Imports no Ray."""

from dataclasses import dataclass, replace
from typing import Self

from batchgen.engines.base import ENGINES, EngineKind
from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.output import job_file
from batchgen.output.store import Store
from batchgen.plan import query
from batchgen.read.columns import InputColumns, look
from batchgen.read.detect import with_prompt
from batchgen.read.discover import discover, refuse_own_output, skipped, upstream_of, with_combinations
from batchgen.read.formats import Found
from batchgen.read.layouts import JobLayout
from batchgen.render.images.images import refuse_no_folder
from batchgen.render.model_files import load_model
from batchgen.render.renderer import JUDGE, Renderer, versions_of
from batchgen.render.safe.functions import row_functions
from batchgen.tasks import TASKS
from batchgen.tasks.accept import Acceptance
from batchgen.tasks.parse import Parser

SHOWN_FILES = 20


@dataclass(frozen=True)
class Prepared:
    """A job whose input and model have been looked at. `upstream`: fingerprints of the jobs whose outputs are the input;
    `skipped`: files in its folders that are no shards. `job` reads the rows of its query, `asked`, in place of its input;
    `stated` is the job as its output remembers it."""

    job: Job
    renderer: Renderer
    found: list[Found]
    columns: InputColumns
    upstream: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    asked: query.Asked | None = None

    @property
    def notes(self) -> list[str]:
        """Sentences on what the input has and the job has not."""
        notes = [self.skipped_words, self._thinks]
        return [*(note for note in notes if note), *(self.asked.notes if self.asked else ())]

    @property
    def _thinks(self) -> str | None:
        """That the model may think aloud in its answers, where the job does not tell the two apart."""
        model, files = self.job.model, self.renderer.model
        if self.job.task != "generate" or model is None or model.reasoning_parser is not None or not files.thinks:
            return None
        return f"the chat template of {files.label} has {files.marks.start}: model.reasoning_parser: auto keeps reasoning apart"

    @property
    def stated(self) -> Job:
        return self.asked.stated(self.job) if self.asked else self.job

    def kept(self, store: Store) -> Self:
        """With the rows of the query in the output. Raises StoreError, and OutputConflict where another driver's are damaged."""
        if self.asked is None:
            return self
        asked = self.asked.keep(store)
        job = self.job.model_copy(update={"input": self.job.input.model_copy(update={"path": asked.spec.path})})
        return replace(self, job=job, renderer=self.renderer.of_job(job), found=discover(job.input), asked=asked)

    @property
    def skipped_words(self) -> str | None:
        """The skipped files in a sentence; None where there are none."""
        if not self.skipped:
            return None
        more = f" and {len(self.skipped) - SHOWN_FILES:,} more" if len(self.skipped) > SHOWN_FILES else ""
        named = ", ".join(self.skipped[:SHOWN_FILES])
        return f"{len(self.skipped):,} files of other endings are left out: {named}{more}; set input.format to read them"


def prepare(job: Job, store: Store | None = None, planned_only: bool = False) -> Prepared:
    """Check the engine's options, find the shards, read the model's files, probe the template. `store` is the output's, where an
    earlier run may have left a job that must mean the same. With `planned_only` the sources of a query are not looked at.
    Raises UsageError."""
    before = job_file.load(store) if store else None
    refuse_own_output(job)
    job, asked = with_combinations(job), None
    if job.input.query is not None:
        asked = query.ask(job, store, planned_only)
        job = job.model_copy(update={"input": asked.spec})
    job = with_prompt(job, before.job if before else None)
    JobLayout(job)  # refuses a layout that the job cannot have
    engine = ENGINES.named(job.engine.kind)
    if engine.capabilities.reads_answers:
        job = _with_answers_read(job, before.job if before else None)
    if engine.capabilities.needs_model and job.model is None:
        raise JobError(f"engine.kind {job.engine.kind} needs a model", "set model.source")
    refuse_no_folder(job.input)
    _check_groups(job, engine)
    if (uses := TASKS.named(job.task).uses) not in engine.capabilities.tasks:
        raise JobError(f"task {job.task}: engine {job.engine.kind} cannot {uses}", "name another engine.kind")
    if job.parse_ is not None:
        Parser(job.parse_)
    judge = _judge(job, before)
    needed, hosted = engine.capabilities.needs_model, not engine.capabilities.reads_model
    model = load_model(job.model, before.model if before else None, hosted, needed)
    functions = row_functions(job)
    found = discover(job.input)
    upstream = asked.answer.upstream if asked else upstream_of(found)
    if before is not None and store is not None:
        stated = asked.stated(job) if asked else job
        job_file.refuse_change(store.url, before, job_file.meaning(stated, model, upstream, versions_of(functions, judge)))
    columns = look(job, found)
    renderer = Renderer(job, model, engine.capabilities, engine.context(job), functions, judge)
    if job.accept is not None:
        Acceptance(job.accept, renderer).refuse_unfit(columns.kept)
    left_out = asked.skipped if asked else tuple(skipped(job.input, found))
    return Prepared(job, renderer, found, columns, upstream, left_out, asked)


def _judge(job: Job, before: job_file.JobFile | None) -> Renderer | None:
    """The renderer of a judge with an engine of its own. Raises JobError, ModelError."""
    if (judge := job.judge) is None:
        return None
    field = f"{JUDGE}.engine"
    try:
        engine = ENGINES.named(judge.engine.kind)
    except JobError as error:
        raise JobError(f"{JUDGE}: {error}") from None
    can = engine.capabilities
    if "generate" not in can.tasks:
        raise JobError(f"{field}.kind {judge.engine.kind} cannot generate", "name another")
    if can.needs_model and judge.model is None:
        raise JobError(f"{field}.kind {judge.engine.kind} needs a model", f"set {JUDGE}.model")
    if can.reads_answers and judge.model is not None and judge.model.reasoning_parser is None:
        judge = judge.model_copy(update={"model": judge.model.model_copy(update={"reasoning_parser": "auto"})})
    for each in job.groups:
        _refuse_no_room(each)
    try:
        engine.check(judge)
    except JobError as error:
        raise JobError(f"{JUDGE}: {error}") from None
    prefix = f"{JUDGE}.model."
    recorded = {name.removeprefix(prefix): value for name, value in (before.meaning if before else {}).items()}
    model = load_model(judge.model, recorded, not can.reads_model, can.needs_model)
    return Renderer(judge, model, can, engine.context(judge))


def _refuse_no_room(job: Job) -> None:
    """Raises JobError where the engines of a job and its judge cannot share what a replica reserves."""
    assert job.judge is not None
    judge, field = job.judge.engine, f"{JUDGE}.engine"
    device = ENGINES.named(judge.kind).capabilities.device
    if device == "cpu":
        return
    if device != ENGINES.named(job.engine.kind).capabilities.device:
        cause = f"{field}.kind {judge.kind} needs a {device}, of which the replicas of engine.kind {job.engine.kind} reserve none"
        raise JobError(cause, "reach the judge at an endpoint: kind openai")
    if judge.ranks > 1 or job.engine.pipeline_parallel_size > 1 or job.engine.data_parallel_size > 1:
        raise JobError(
            f"{field}: a judge beside the job's engine is on one {device} of one node", "reach it at an endpoint: kind openai"
        )
    shares = [one.options.get("gpu_memory_utilization") for one in (job.engine, judge)]
    if judge.kind == job.engine.kind == "vllm" and None in shares:
        cause = f"{field}: two models share the memory of a {device}"
        raise JobError(cause, f"set gpu_memory_utilization in engine.options and in {field}.options, together below 1")


def _with_answers_read(job: Job, before: Job | None) -> Job:
    """The job of an engine that tells reasoning and calls apart by itself: the output has columns for them, unless an earlier
    release began it without."""
    if job.model is None or job.task != "generate":
        return job
    chosen = {}
    for name in ("reasoning_parser", "tool_call_parser"):
        if getattr(job.model, name) is None:
            chosen[name] = "auto" if before is None or before.model is None else getattr(before.model, name)
    return job.model_copy(update={"model": job.model.model_copy(update=chosen)})


def _check_groups(job: Job, engine: EngineKind) -> None:
    """Check the engine's options in each group of replicas. Raises JobError, also where groups differ in their context: whether
    a row is too long must not depend on the replica that gets it."""
    for number, each in enumerate(job.groups):
        try:
            engine.check(each)
        except JobError as error:
            raise JobError(f"replicas.groups.{number}: {error}") if job.replicas.groups else error from None
        if engine.context(each) != engine.context(job):
            cause = (
                f"replicas.groups.{number}: the context of its engine is {engine.context(each)}, the job's {engine.context(job)}"
            )
            raise JobError(cause, "set it in engine.options, for all groups")
