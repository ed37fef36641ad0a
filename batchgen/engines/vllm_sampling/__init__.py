"""What vLLM refuses of a row's sampling, said before anything is sent."""

from batchgen.engines.vllm_sampling.constraints import too_much
from batchgen.job.sampling import Sampling


def mistake(sampling: Sampling) -> str | None:
    """What is wrong with a sampling, with the remedy: `FIELD ...: ...`; None for one that vLLM takes."""
    several = next((name for name in ("best_of", "n") if (getattr(sampling, name) or 1) > 1), None)
    if sampling.temperature == 0 and several:
        cause = f"{several} {getattr(sampling, several)}: at temperature 0 all answers are the same, and vLLM refuses it"
        return f"{cause}; set a temperature, or ask for one answer"
    if sampling.structured_outputs is not None and (cap := too_much(sampling.structured_outputs)):
        return f"structured_outputs: {cap}"
    return None
