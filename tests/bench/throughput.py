"""batchgen against everyone else on the same rows: a table of medians and ratios.

    python tests/bench/throughput.py [--workload A,B] [--model tiny,llama] [--rows 4096] [--length 64] [--repeats 3]
                                     [--contenders batchgen,LLM.generate] [--json FILE]

Contenders take turns (1, 2, 3, 1, 2, 3, ...), one process tree at a time. Columns: seconds generating (first row into an
engine to last row out, stamped at vLLM's own door), the ratio of the first contender's to it, tokens per second, the
whole process, peak proportional memory, CPU seconds outside the engine core, seconds to the first row and the CPU of it
outside the engine and its front end, and the part of the prompts found in the prefix cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from contenders import CONTENDERS
from measure import Measured, measure
from workloads import TINY, Workload, make, make_karakuri, make_llama, write

SHARED = {"max_model_len": 1024, "max_num_seqs": 256, "dtype": "bfloat16"}
ON_CPU = {**SHARED, "enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": 4096}
ON_GPU = {**SHARED, "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.9, "load_format": "dummy"}
ENV = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "RAY_DEDUP_LOGS": "0"}
HEAD = ("", "generating s", "ratio", "tokens/s", "whole s", "peak MB", "CPU s outside", "start s", "start CPU s", "cached")


def run(name: str, workload: Workload, model: Path, folder: Path, replicas: int = 1, gpus: int = 0) -> Measured:
    """One contender, once; `gpus` of each replica. Raises RuntimeError when it fails or did other work than asked."""
    options: dict[str, object] = {**ON_GPU, "tensor_parallel_size": gpus} if gpus else dict(ON_CPU)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        settings = {
            "folder": str(folder),
            "model": str(model),
            "options": options,
            "out": str(Path(out) / "out"),
            "replicas": replicas,
            "gpus": gpus,
            "job": workload.job,
        }
        if replicas > 1:
            ENV["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        (folder / "settings.json").write_text(json.dumps(settings))
        command = [sys.executable, str(Path(__file__).parent / "contenders.py"), name, str(folder / "settings.json")]
        found = measure(command, ENV, folder / f"{name.replace(' ', '-')}.log", 900)
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
            f"{runs[0].tokens / generating:,.0f}",
            f"{middle(runs, 'whole'):.1f}",
            f"{middle(runs, 'peak_mb'):,.0f}",
            f"{middle(runs, 'cpu_outside'):.1f}",
            f"{middle(runs, 'startup'):.1f}",
            f"{middle(runs, 'cpu_startup'):.1f}",
            f"{runs[0].cached:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for name, runs in results.items():
        if runs and len(runs[0].ends) > 1:
            apart = statistics.median((run.ends[-1] - run.ends[0]) / run.ends[-1] for run in runs)
            lines.append(f"\n{name}: {len(runs[0].ends)} engines ended within {apart:.1%} of the generating phase of each other")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="A,B")
    parser.add_argument("--model", default="tiny", help="tiny, llama, karakuri (no weights: for GPUs)")
    parser.add_argument("--layers", type=int, default=8, help="Of karakuri.")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of a replica; 0 for a CPU build of vLLM.")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--contenders", default="LLM.generate,AsyncLLM,run-batch,ray.data.llm,ray.data.llm tuned,Daft,batchgen")
    parser.add_argument("--folder", default=None, help="Where the model, the rows and the logs go; kept.")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    names = options.contenders.split(",")
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        parser.error(f"no contender {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    work = Path(options.folder or tempfile.mkdtemp(prefix="bench-"))
    kept: list[dict[str, object]] = []
    for kind in options.model.split(","):
        work.mkdir(parents=True, exist_ok=True)
        (work / kind).mkdir(exist_ok=True)
        makers = {"tiny": lambda _: TINY, "llama": make_llama, "karakuri": lambda at: make_karakuri(at, options.layers)}
        model = makers[kind](work / kind)
        for letter in options.workload.split(","):
            workload = make(letter, options.rows, options.length)
            folder = work / letter.replace(" ", "-")
            folder.mkdir(exist_ok=True)
            write(workload, folder)
            results: dict[str, list[Measured]] = {name: [] for name in names}
            for turn in range(options.repeats):
                for name in names:
                    try:
                        results[name].append(run(name, workload, model, folder, options.replicas, options.gpus))
                    except RuntimeError as error:
                        print(f"{name} failed: {error}", file=sys.stderr)
                        continue
                    kept.append({"workload": letter, "model": kind, "contender": name, **asdict(results[name][-1])})
                    last = results[name][-1]
                    note = f"{letter} {kind} {turn + 1} {name}: {last.generating:.1f} s generating, {last.whole:.1f} s"
                    print(note, file=sys.stderr, flush=True)
            what = f"{len(workload.rows):,} rows, {workload.tokens:,} tokens"
            print(
                f"\n{letter}, {kind} model: {workload.what}; {what}; medians of {options.repeats}\n\n{table(results)}", flush=True
            )
    if options.json:
        Path(options.json).write_text("\n".join(json.dumps(entry) for entry in kept) + "\n")


if __name__ == "__main__":
    main()
