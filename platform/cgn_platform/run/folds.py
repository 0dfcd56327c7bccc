"""One fold through the ledger: read it where it is finished, train and write it where it is not."""

from collections.abc import Callable

from cgn.data.pairs import Pairs
from cgn.results import CheckpointStore, FoldResult, FoldRun
from cgn_platform.store.ledger import Identity, Ledger


def read_or_train(
    ledger: Ledger, identity: Identity, pairs: Pairs, train: Callable[[CheckpointStore], FoldRun]
) -> FoldRun:
    """The epochs and the result of a fold.

    Args:
        ledger: searched first, written last.
        identity: of the unit that the fold is.
        pairs: names the test pairs of a new unit.
        train: trains the fold with these checkpoints.

    Raises:
        LedgerError: the result cannot be written.
        Exception: whatever training raises.
    """
    if unit := ledger.find(identity.id):
        ledger.delete_checkpoints(identity.id)  # whoever finished it may have been killed before it did
        yield from unit.reports
        return unit.result
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
