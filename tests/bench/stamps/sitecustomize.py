"""Stamps at vLLM's own door, the same for every contender: PYTHONPATH brings this file into each process.

When a process imports vLLM's OutputProcessor (every front end has one), its `add_request` and `process_outputs` are
wrapped to keep seven doubles in a memory-mapped file of $BENCH_STAMPS, named by the pid: when the first request came
in, when the last one was finished, requests in, requests out, tokens generated, prompt tokens found in the prefix
cache, steps of the engine that gave tokens. A CPU build's worker keeps the seconds that it spent in `execute_model` and
`sample_tokens` in a file that ends in `.busy`.
"""

import importlib.abc
import importlib.machinery
import mmap
import os
import struct
import sys
import time


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in TARGETS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            TARGETS[name](module)

        spec.loader.exec_module = exec_module
        return spec


def _file(ending, size):
    with open(os.path.join(os.environ["BENCH_STAMPS"], f"{os.getpid()}{ending}"), "w+b") as file:
        file.write(bytes(size))
        file.flush()
        return mmap.mmap(file.fileno(), size)


def _front(module):
    processor = module.OutputProcessor
    add, process = processor.add_request, processor.process_outputs
    stamps = None
    first = last = 0.0
    begun = finished = tokens = cached = steps = 0

    def add_request(self, *args, **kwargs):
        nonlocal stamps, first, begun
        if stamps is None:
            stamps = _file("", 56)
            first = time.time()
        begun += 1
        return add(self, *args, **kwargs)

    def process_outputs(self, outputs, *args, **kwargs):
        nonlocal last, finished, tokens, cached, steps
        result = process(self, outputs, *args, **kwargs)
        done = finished
        steps += bool(outputs)
        for output in outputs:
            tokens += len(output.new_token_ids)
            if output.finish_reason is not None:
                finished += 1
            if output.prefill_stats is not None:
                cached += output.prefill_stats.num_cached_tokens
        if finished != done:
            last = time.time()
            struct.pack_into("7d", stamps, 0, first, last, begun, finished, tokens, cached, steps)
        return result

    processor.add_request, processor.process_outputs = add_request, process_outputs


def _worker(module):
    stamps, busy = None, 0.0

    def timed(call):
        def at_work(*args, **kwargs):
            nonlocal stamps, busy
            stamps = stamps or _file(".busy", 8)
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                busy += time.perf_counter() - began
                struct.pack_into("d", stamps, 0, busy)

        return at_work

    for name in ("execute_model", "sample_tokens"):
        setattr(module.CPUWorker, name, timed(getattr(module.CPUWorker, name)))


TARGETS = {"vllm.v1.engine.output_processor": _front, "vllm.v1.worker.cpu_worker": _worker}

if "BENCH_STAMPS" in os.environ:
    sys.meta_path.insert(0, _Finder())
