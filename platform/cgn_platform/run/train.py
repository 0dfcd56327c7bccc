"""Train one configuration in this process, without Ray, through the ledger."""

from collections.abc import Sequence

from cgn.config import Config
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Split
from cgn.figures import Snapshots
from cgn.fit import fit
from cgn.images import Images
from cgn.results import CheckpointStore, CrossRun, FoldRun, lockstep
from cgn_platform.run.folds import read_or_train
from cgn_platform.store.ledger import Identity, Ledger

PICTURED = 6  # test pairs of the first fold that are drawn


def train(
    config: Config,
    images: Images,
    splits: Sequence[Split],
    selected: Sequence[Split],
    *,
    ledger: Ledger,
    snapshots: Snapshots | None = None,
) -> CrossRun:
    """Train folds in lockstep. Yields each epoch of all folds, and returns their results.

    Args:
        config: the configuration.
        images: the pairs on a device.
        splits: all splits of the data; units are named by them.
        selected: the splits to train.
        ledger: finished folds are read from it, new ones are written to it.
        snapshots: keeps networks of the first selected fold while it trains, from its first epoch on. A fold
            that the ledger has is not trained, so it has none.

    Raises:
        LedgerError: a result cannot be written.
        Exception: whatever training raises.
    """
    pairs = images.pairs
    fingerprints = {"cache": pairs.fingerprint, "splits": splits_fingerprint(pairs.pair_id, splits)}

    def fold(split: Split) -> FoldRun:
        def fit_fold(checkpoints: CheckpointStore) -> FoldRun:
            pictured = snapshots is not None and split is selected[0]
            return fit(config, images, split, checkpoints=snapshots if pictured else checkpoints)

        return read_or_train(ledger, Identity.of(config, split.fold, **fingerprints), pairs, fit_fold)

    return lockstep([fold(split) for split in selected], config.epochs)


def snapshots_of(config: Config, images: Images, split: Split) -> Snapshots:
    """Fig. 4 to 6: pictures of a few evenly spaced test pairs of a fold."""
    count = min(PICTURED, len(split.test))
    return Snapshots(config, images, split.test[[i * len(split.test) // count for i in range(count)]])
