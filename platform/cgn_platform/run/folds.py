"""One fold through the ledger: read it where it is finished, train and write it where it is not."""

from collections.abc import Callable

from cgn.data.pairs import Pairs
from cgn.results import CheckpointStore, FoldResult, FoldRun
from cgn_platform.store.ledger import Identity, Ledger


def read_or_train(
    ledger: Ledger, identity: Identity, pairs: Pairs, train: Callable[[CheckpointStore], FoldRun]
) -> FoldRun:
    """Yield the epochs of a fold, and return its result.

    Args:
        ledger: searched first; a new unit is written to it.
        identity: names the fold's unit.
        pairs: the data; a new unit holds the ids of its test pairs.
        train: trains the fold, given the place of its checkpoints.

    Raises:
        LedgerError: the result cannot be written; what is known before is raised before training.
        Exception: whatever training raises.
    """
    if unit := ledger.find(identity.id):
        ledger.delete_checkpoints(identity.id)  # its writer may have been killed before it did so
        yield from unit.reports
        return unit.result
    ledger.check_writable(identity)
    run, reports = train(ledger.checkpoints(identity)), []
    while True:
        try:
            report = next(run)
        except StopIteration as end:
            result: FoldResult = end.value
            break
        reports.append(report)
        yield report
    ledger.write(identity, reports, result, pairs)
    return result
