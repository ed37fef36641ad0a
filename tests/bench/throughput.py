"""batchgen against everyone else on the same rows: a table of medians and ratios.

    python tests/bench/throughput.py    # everything that the README's tables show
    python tests/bench/throughput.py --workload A,B [--model tiny,llama] [--rows 4096] [--length 64] [--repeats 3]
                                     [--contenders batchgen,LLM.generate] [--sampled] [--json FILE]

Contenders take turns (1, 2, 3, 1, 2, 3, ...), one process tree at a time. Columns: seconds generating (first row into an
engine to last row out, stamped at vLLM's own door), the ratio of the first contender's to it, the seconds of it in which the
engine's worker executed no step (CPU builds), tokens per second, the whole process, peak proportional memory, CPU seconds
outside the engine core, seconds to the first row and the CPU of it outside the engine and its front end, the prompt tokens
found in the prefix cache, and the engine's steps. Rows are greedy; with --sampled they run at temperature 0.7, top_p 0.95, and
batchgen seeds each of them, as it does by default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from contenders import CONTENDERS
from measure import Measured, cpu_dtype, measure
from workloads import GREEDY, SAMPLED, TINY, Workload, make, make_karakuri, make_llama, write

from batchgen.output.progress import REPORT

SHARED = {"max_model_len": 1024, "max_num_seqs": 256}
ON_CPU = {**SHARED, "dtype": cpu_dtype(), "enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": 4096}
ON_GPU = {**SHARED, "dtype": "bfloat16", "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.9, "load_format": "dummy"}
ENV = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "RAY_DEDUP_LOGS": "0"}
HEAD = (
    "",
    "generating s",
    "ratio",
    "idle s",
    "tokens/s",
    "whole s",
    "peak MB",
    "CPU s outside",
    "start s",
    "start CPU s",
    "cached",
    "steps",
)


def run(
    name: str,
    workload: Workload,
    model: Path,
    folder: Path,
    replicas: int = 1,
    gpus: int = 0,
    sampling: Mapping[str, float] = GREEDY,
    **more: Any,
) -> Measured:
    """One contender, once; `gpus` of each replica, `sampling` of every row, `more` for measure(). Raises
    RuntimeError when it fails or did other work than asked."""
    options: dict[str, object] = {**ON_GPU, "tensor_parallel_size": gpus} if gpus else dict(ON_CPU)
    if model.name == "llama":
        options["max_num_seqs"] = 64  # several batches of rows in a bearable time
    with tempfile.TemporaryDirectory(dir=folder) as out:
        settings = {
            "folder": str(folder),
            "model": str(model),
            "options": options,
            "out": str(Path(out) / "out"),
            "replicas": replicas,
            "gpus": gpus,
            "job": workload.job,
            "sampling": sampling,
        }
        if replicas > 1:
            ENV["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        (folder / "settings.json").write_text(json.dumps(settings))
        command = [sys.executable, str(Path(__file__).parent / "contenders.py"), name, str(folder / "settings.json")]
        found = measure(command, ENV, folder / f"{name.replace(' ', '-')}.log", 900, **more)
        if (report := Path(out) / "out" / REPORT).exists():
            found = replace(found, committing=json.loads(report.read_text())["seconds_committing"])
    if (found.requests, found.tokens) != (workload.requests, workload.tokens):
        asked = f"{workload.requests} requests and {workload.tokens} tokens"
        raise RuntimeError(f"{name}: {found.requests} requests and {found.tokens} tokens instead of {asked}")
    return found


def table(results: dict[str, list[Measured]]) -> str:
    """Medians; the ratio is of paired runs: the first contender's generating seconds by this one's, over 1 is faster."""

    def middle(runs: list[Measured], field: str) -> float:
        return statistics.median(getattr(run, field) for run in runs)

    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    base = next(iter(results.values()))
    for name, runs in results.items():
        if not runs:
            lines.append(f"| {name} | failed |" + " |" * (len(HEAD) - 2))
            continue
        ratio = statistics.median(a.generating / b.generating for a, b in zip(base, runs, strict=False))
        generating = middle(runs, "generating")
        cells = [
            name,
            f"{generating:.2f}",
            f"{ratio:.2f}",
            f"{middle(runs, 'idle'):.2f}" if runs[0].busy else "",
            f"{runs[0].tokens / generating:,.0f}",
            f"{middle(runs, 'whole'):.1f}",
            f"{middle(runs, 'peak_mb'):,.0f}",
            f"{middle(runs, 'cpu_outside'):.1f}",
            f"{middle(runs, 'startup'):.1f}",
            f"{middle(runs, 'cpu_startup'):.1f}",
            f"{runs[0].cached:,}",
            f"{runs[0].steps:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for name, runs in results.items():
        if runs and len(runs[0].ends) > 1:
            apart = statistics.median((run.ends[-1] - run.ends[0]) / run.ends[-1] for run in runs)
            lines.append(f"\n{name}: {len(runs[0].ends)} engines ended within {apart:.1%} of the generating phase of each other")
        if runs and runs[0].committing:
            share = statistics.median(run.committing / run.generating / len(run.ends) for run in runs)
            lines.append(f"\n{name}: parts, journal and checksums took each replica {share:.1%} of the generating phase, in CPU")
    return "\n".join(lines)


@dataclass(frozen=True)
class Comparison:
    """Contenders on one workload; `replicas` of each, `gpus` for each replica; rows greedy or `sampled`."""

    workload: str
    model: str
    rows: int
    length: int
    contenders: tuple[str, ...]
    repeats: int = 3
    replicas: int = 1
    gpus: int = 0
    sampled: bool = False


TOOLS = ("batchgen", "LLM.generate", "AsyncLLM", "run-batch", "ray.data.llm tuned")
SHARING = (*TOOLS, "Daft", "batchgen unshared")
TURNS = ("batchgen", "LLM.generate", "AsyncLLM")
POOLS = ("batchgen", "ray.data.llm tuned")
EVERYTHING = (
    Comparison("A", "tiny", 4096, 64, (*TOOLS, "Daft")),
    Comparison("B", "tiny", 4096, 64, (*TOOLS, "batchgen plain")),
    Comparison("C", "tiny", 4050, 8, SHARING),
    Comparison("D", "tiny", 4096, 8, SHARING),
    Comparison("E", "tiny", 4096, 64, POOLS, replicas=2),
    Comparison("F", "tiny", 20_000, 1, TOOLS),
    Comparison("G", "tiny", 1024, 32, TURNS),
    Comparison("A", "llama", 256, 48, TOOLS),
    Comparison("B", "llama", 256, 48, TOOLS),
    Comparison("C", "llama", 243, 8, SHARING),
    Comparison("D", "llama", 96, 8, SHARING),
    Comparison("E", "llama", 256, 32, POOLS, replicas=2),
    Comparison("F", "llama", 1000, 1, TOOLS),
    Comparison("G", "llama", 64, 16, TURNS),
    Comparison("A", "tiny", 40_000, 32, ("batchgen", "run-batch", "Daft"), repeats=1),
    Comparison("F", "tiny", 200_000, 1, ("batchgen", "AsyncLLM"), repeats=1),
    Comparison("A", "tiny", 4096, 64, ("batchgen", "ray.data.llm"), repeats=1),
    Comparison("A", "tiny", 256, 64, ("batchgen", "transformers"), repeats=1),
)


def compare(plan: Comparison, work: Path, layers: int) -> Iterator[dict[str, Any]]:
    """Run the contenders in turn, print their table, and yield every run."""
    makers = {"tiny": lambda _: TINY, "llama": make_llama, "karakuri": lambda at: make_karakuri(at, layers)}
    (work / plan.model).mkdir(parents=True, exist_ok=True)
    model = makers[plan.model](work / plan.model)
    workload = make(plan.workload, plan.rows, plan.length)
    folder = work / plan.workload
    folder.mkdir(exist_ok=True)
    write(workload, folder)
    results: dict[str, list[Measured]] = {name: [] for name in plan.contenders}
    for turn in range(plan.repeats):
        for name in plan.contenders:
            try:
                found = run(name, workload, model, folder, plan.replicas, plan.gpus, SAMPLED if plan.sampled else GREEDY)
            except RuntimeError as error:
                print(f"{name} failed: {error}", file=sys.stderr)
                continue
            results[name].append(found)
            yield {**asdict(plan), "contender": name, **asdict(found)}
            note = f"{plan.workload} {plan.model} {turn + 1} {name}: {found.generating:.1f} s generating, {found.whole:.1f} s"
            print(note, file=sys.stderr, flush=True)
    what = f"{workload.what}; {len(workload.rows):,} rows, {workload.tokens:,} tokens"
    replicas = f", {plan.replicas} replicas" if plan.replicas > 1 else ""
    how = ", sampled" if plan.sampled else ""
    print(
        f"\n{plan.workload}, {plan.model} model{replicas}{how}: {what}; medians of {plan.repeats}\n\n{table(results)}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", help="Letters; without it, everything that the README's tables show (hours).")
    parser.add_argument("--model", default="tiny", help="tiny, llama, karakuri (no weights: for GPUs)")
    parser.add_argument("--layers", type=int, default=8, help="Of karakuri.")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of a replica; 0 for a CPU build of vLLM.")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--sampled", action="store_true", help="Temperature 0.7, top_p 0.95; batchgen seeds rows, others do not.")
    parser.add_argument("--contenders", default=",".join(TOOLS))
    parser.add_argument("--folder", help="Where the models, the rows and the logs go; kept.")
    parser.add_argument("--json", help="Append every run to this file, a JSON object a line.")
    options = parser.parse_args()
    names = tuple(options.contenders.split(","))
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        parser.error(f"no contender {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    work = Path(options.folder or tempfile.mkdtemp(prefix="bench-"))
    plans = tuple(replace(plan, sampled=options.sampled) for plan in EVERYTHING)
    if options.workload:
        shape = (options.rows, options.length, names, options.repeats, options.replicas, options.gpus, options.sampled)
        plans = tuple(
            Comparison(letter, kind, *shape) for kind in options.model.split(",") for letter in options.workload.split(",")
        )
    for plan in plans:
        for entry in compare(plan, work, options.layers):
            if options.json:
                with open(options.json, "a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
