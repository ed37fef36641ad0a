"""`_SUCCESS` of an output: when it is put, when it is taken away, and when it comes back.

A store deletes whatever is there. A driver that stood still between the confirmation of its lease and the deletion may so delete
the file of another one, which has finished the output meanwhile: it notices, and puts the file again."""

from batchgen.errors import LeaseError
from batchgen.output import job_file, parts, plan_file
from batchgen.output.lease import Lease
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import Store
from batchgen.output.trust import manifest


def finish(store: Store, held: Lease, has_manifest: bool) -> None:
    """Record the parts that the manifest lacks, and put _SUCCESS, unless an earlier run has. Raises LeaseError, StoreError."""
    success = store.get(SUCCESS)
    if success is None or (has_manifest and not success):
        held.confirm()
        manifest.fill(store, parts.committed(store))
        held.put(SUCCESS, manifest.seal(store))  # confirms: another driver may have planned more since


def reopen(store: Store, held: Lease) -> None:
    """Take _SUCCESS away: there are spans to run. Raises LeaseError, StoreError."""
    held.confirm()
    if store.get(SUCCESS) is None:
        return
    store.delete(SUCCESS)
    try:
        held.confirm()
    except LeaseError:
        restore(store)
        raise


def restore(store: Store) -> None:
    """Put the _SUCCESS of an output whose every planned span has its part, where it was deleted by mistake."""
    if (job := job_file.load(store)) is not None and job.manifest:
        plan, _ = plan_file.load_plan(store, job.factor)
        if not plan.missing(parts.committed(store)):
            store.put_new(SUCCESS, manifest.seal(store))
