"""One configuration in this process, without Ray, through the ledger."""

from collections.abc import Sequence

from cgn.config import Config
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Split
from cgn.figures import Snapshots
from cgn.fit import Images, fit
from cgn.results import CrossRun, FoldRun, lockstep
from cgn_platform.run.folds import read_or_train
from cgn_platform.store.ledger import Identity, Ledger

PICTURED = 6  # test pairs of the first fold, spread over it


def train(
    config: Config,
    images: Images,
    splits: Sequence[Split],
    asked: Sequence[Split],
    *,
    ledger: Ledger,
    snapshots: Snapshots | None = None,
) -> CrossRun:
    """Train folds in lockstep; yields an epoch of all of them, returns their results.

    Args:
        config: what is trained.
        images: the pairs on a device.
        splits: all folds, which the units are named by.
        asked: those to train.
        ledger: finished folds are read from it, new ones are written to it.
        snapshots: takes pictures of the first fold as it trains, so that this fold is not read but trained.

    Raises what training raises, and LedgerError.
    """
    pairs = images.pairs
    fingerprints = {"cache": pairs.fingerprint, "splits": splits_fingerprint(pairs.pair_id, splits)}

    def fold(split: Split) -> FoldRun:
        if snapshots is not None and split is asked[0]:
            return fit(config, images, split, checkpoints=snapshots)
        identity = Identity.of(config, split.fold, **fingerprints)
        return read_or_train(
            ledger, identity, pairs, lambda memory: fit(config, images, split, checkpoints=memory)
        )

    return lockstep([fold(split) for split in asked], config.epochs)


def snapshots_of(config: Config, images: Images, split: Split) -> Snapshots:
    """Takes pictures of test pairs of a fold, spread over it, for Fig. 4 to 6."""
    count = min(PICTURED, len(split.test))
    return Snapshots(config, images, split.test[[i * len(split.test) // count for i in range(count)]])
