"""What an error of the Hub's client means, and what helps."""

from batchgen.errors import safe_message


def of_hub(error: BaseException) -> tuple[str, str]:
    """The cause and the remedy of an error of huggingface_hub, of its HTTP library, or of the system."""
    from huggingface_hub import errors

    words = safe_message(error)
    if isinstance(error, errors.GatedRepoError):
        return "it is gated on the Hub", "accept its terms on its page there, and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hub has none of this name, or a private one", "check the name; a private one needs HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the Hub has no such revision: {words}", "check the revision"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        remedy = "check HF_TOKEN" if status in (401, 403) else "try again later"
        return f"the Hub answered: {words}", remedy
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError) or _is_connection(error):
        remedy = "check the network (HF_ENDPOINT, HTTPS_PROXY, HF_HUB_OFFLINE), or name a folder on this machine"
        return f"the Hub cannot be reached, and the cache does not have it: {safe_message(error, 100)}", remedy
    remedy = "check the disk and its permissions" if isinstance(error, OSError) else "check the name and the network"
    return f"the Hub's client failed: {words}", remedy


def _is_connection(error: BaseException) -> bool:
    import httpx

    return isinstance(error, ConnectionError | TimeoutError | httpx.TransportError)
