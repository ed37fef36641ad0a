"""What vLLM refuses of a row's sampling, said before anything is sent."""

import functools

from batchgen.engines.vllm_sampling.constraints import too_much
from batchgen.job.sampling import Sampling
from batchgen.jsontext import dumps, loads


def mistake(sampling: Sampling) -> str | None:
    """What is wrong with a sampling, with the remedy: `FIELD ...: ...`; None for one that vLLM takes."""
    several = next((name for name in ("best_of", "n") if (getattr(sampling, name) or 1) > 1), None)
    if sampling.temperature == 0 and several:
        cause = f"{several} {getattr(sampling, several)}: at temperature 0 all answers are the same, and vLLM refuses it"
        return f"{cause}; set a temperature, or ask for one answer"
    if sampling.structured_outputs is not None and (cap := too_much(sampling.structured_outputs)):
        return f"structured_outputs: {cap}"
    if sampling.tools is not None and (cap := _of_tools(sampling.tools)):
        return f"tools: {cap}"
    return None


@functools.lru_cache(64)
def _of_tools(tools: str) -> str | None:
    """Which cap the schema of a tool's arguments is over: calls are constrained by it."""
    for tool in loads(tools):
        function = tool["function"]
        if cap := too_much(dumps({"json": function.get("parameters", {})})):
            return f"{function['name']}: {cap}"
    return None
