"""Where a run happens, and what all its trials have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cgn.config import Config
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import ResourcesError
from cgn.provenance import code_fingerprint
from cgn.results import CheckpointStore, FoldRun
from cgn_platform.cluster.resources import Cluster, Resources
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Identity, Ledger

Runner = Callable[[Config, Pairs, Split, str, CheckpointStore], FoldRun]
"""Trains a fold as `cgn.fit.fit` does, or simulates it."""


@dataclass(frozen=True)
class Site:
    """Where a sweep or table runs.

    Attributes:
        store: written by the driver.
        ledger: written by the workers, read by the driver.
        cluster: a connected one.
        resources: of a trial; of each fold, where folds have workers of their own.
        concurrent: most trials or folds at once; all that fit if None.
        fold_workers: workers that share a trial's folds; 0 trains them in the trial's own process.
        runner: trains a fold; None for `cgn.fit.fit`, with the pairs on the device once for all trials.
    """

    store: Store
    ledger: Ledger
    cluster: Cluster
    resources: Resources = field(default_factory=Resources)
    concurrent: int | None = None
    fold_workers: int = 0
    runner: Runner | None = None

    def slots(self) -> int:
        """How many trials run at once.

        Raises:
            ResourcesError: not a single one fits.
        """
        places = self.cluster.slots(self.resources)
        if places < self.fold_workers:
            raise ResourcesError(
                f"a trial needs {self.fold_workers} fold workers but the cluster has room for {places} "
                f"of {self.resources.cpus:g} CPUs and {self.resources.gpus:g} GPUs: lower --fold-workers"
            )
        slots = places // max(1, self.fold_workers)
        return slots if self.concurrent is None else min(slots, self.concurrent)


@dataclass(frozen=True)
class TrainingSpec:
    """What workers need to train: data, resources, ledger. It is sent to every node once.

    Attributes:
        code: fingerprint of the driver's `cgn`, which workers compare with theirs.
    """

    pairs: Pairs
    splits: tuple[Split, ...]
    ledger: Ledger
    resources: Resources = field(default_factory=Resources)
    fold_workers: int = 0
    runner: Runner | None = None
    code: str = field(default_factory=code_fingerprint)

    @classmethod
    def of(cls, pairs: Pairs, splits: Sequence[Split], site: Site) -> "TrainingSpec":
        """For a run at this site."""
        return cls(pairs, tuple(splits), site.ledger, site.resources, site.fold_workers, site.runner)

    def fingerprints(self) -> dict[str, str]:
        """Of the data: cache and splits."""
        splits = splits_fingerprint(self.pairs.pair_id, self.splits)
        return {"cache": self.pairs.fingerprint, "splits": splits}

    def identity(self, config: Config, split: Split) -> Identity:
        """Of the unit that this fold of a configuration is."""
        return Identity.of(config, split.fold, **self.fingerprints())
