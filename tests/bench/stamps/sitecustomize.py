"""Stamps at vLLM's own door, the same for every contender: PYTHONPATH brings this file into each process.

When a process imports vLLM's OutputProcessor (every front end has one), its `add_request` and `process_outputs` are
wrapped to keep seven doubles in a memory-mapped file of $BENCH_STAMPS, named by the pid: when the first request came
in, when the last one was finished, requests in, requests out, tokens generated, prompt tokens found in the prefix
cache, steps of the engine that gave tokens.
"""

import importlib.abc
import importlib.machinery
import mmap
import os
import struct
import sys
import time

TARGET = "vllm.v1.engine.output_processor"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != TARGET:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            _wrap(module.OutputProcessor)

        spec.loader.exec_module = exec_module
        return spec


def _wrap(processor):
    add, process = processor.add_request, processor.process_outputs
    stamps = None
    first = last = 0.0
    begun = finished = tokens = cached = steps = 0

    def add_request(self, *args, **kwargs):
        nonlocal stamps, first, begun
        if stamps is None:
            with open(os.path.join(os.environ["BENCH_STAMPS"], str(os.getpid())), "w+b") as file:
                file.write(bytes(56))
                file.flush()
                stamps = mmap.mmap(file.fileno(), 56)
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


if "BENCH_STAMPS" in os.environ:
    sys.meta_path.insert(0, _Finder())
