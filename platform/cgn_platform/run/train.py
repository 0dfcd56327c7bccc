"""Train one configuration in this process, without Ray, through the ledger."""

from collections.abc import Sequence

from cgn.config import Config
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Split
from cgn.figures import Snapshots
from cgn.fit import fit
from cgn.images import Images
from cgn.results import CrossRun, FoldRun, lockstep
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
        snapshots: records pictures of the first selected fold while it trains. That fold is therefore trained
            even if it is in the ledger.

    Raises:
        LedgerError: a result cannot be written.
        Exception: whatever training raises.
    """
    pairs = images.pairs
    fingerprints = {"cache": pairs.fingerprint, "splits": splits_fingerprint(pairs.pair_id, splits)}

    def fold(split: Split) -> FoldRun:
        if snapshots is not None and split is selected[0]:
            return fit(config, images, split, checkpoints=snapshots)
        identity = Identity.of(config, split.fold, **fingerprints)
        return read_or_train(
            ledger, identity, pairs, lambda checkpoints: fit(config, images, split, checkpoints=checkpoints)
        )

    return lockstep([fold(split) for split in selected], config.epochs)


def snapshots_of(config: Config, images: Images, split: Split) -> Snapshots:
    """Fig. 4 to 6: pictures of a few evenly spaced test pairs of a fold."""
    count = min(PICTURED, len(split.test))
    return Snapshots(config, images, split.test[[i * len(split.test) // count for i in range(count)]])
