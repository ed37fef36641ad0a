"""How long a step of a real engine takes with so many sequences running: what simulate.py is told by `--step`.

    python tests/bench/service.py [--model tiny|llama] [--sequences 1,4,16,64]

`n` prompts are answered with SHORT and with LONG tokens each, all together; the difference is LONG - SHORT steps of n sequences
without their prefill. The least of three differences counts: what disturbs a step only makes it longer. Base and slope are a
least-squares line through them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from throughput import ENV, ON_CPU
from workloads import TINY, make, make_llama

SHORT, LONG, TIMES = 8, 40, 3


def steps(model: Path, sizes: list[int]) -> dict[int, float]:
    """Seconds of a step by the sequences that run."""
    from vllm import LLM, SamplingParams

    engine = LLM(model=str(model), **{**ON_CPU, "enable_prefix_caching": False})
    prompts = [row["prompt"] for row in make("A", max(sizes), LONG).rows]

    def seconds(size: int, length: int) -> float:
        params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=length)
        began = time.perf_counter()
        engine.generate(prompts[:size], params, use_tqdm=False)
        return time.perf_counter() - began

    seconds(max(sizes), SHORT)  # the first batch is slower
    found = {size: min(seconds(size, LONG) - seconds(size, SHORT) for _ in range(TIMES)) / (LONG - SHORT) for size in sizes}
    engine.llm_engine.engine_core.shutdown()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "llama"), default="llama")
    parser.add_argument("--sequences", default="1,4,16,64")
    options = parser.parse_args()
    os.environ.update(ENV)
    sizes = [int(size) for size in options.sequences.split(",")]
    print(
        "| model | " + " | ".join(f"{size} sequences, ms" for size in sizes) + " | --step |\n" + "|---" * (len(sizes) + 2) + "|"
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        found = steps(TINY if options.model == "tiny" else make_llama(Path(folder)), sizes)
    slope, base = np.polyfit(sizes, [found[size] for size in sizes], 1)
    cells = [f"{found[size] * 1000:.1f}" for size in sizes]
    print(f"| {options.model} | " + " | ".join(cells) + f" | {base:.5f} {slope:.6f} |", flush=True)


if __name__ == "__main__":
    main()
