"""Where a run happens (`Site`), and what its workers need (`TrainingSpec`)."""

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
"""Yields the epochs of a fold and returns its result, as `cgn.fit.fit` does. The string names the device."""


@dataclass(frozen=True)
class Site:
    """Where a sweep or table runs, and with which resources.

    Attributes:
        store: the driver writes its studies, reports and outboxes here.
        ledger: workers write finished folds to it, the driver reads them.
        cluster: connected.
        resources: of a trial; of each fold if folds have their own workers.
        concurrent: maximum number of trials or folds at once; None for as many as fit.
        fold_workers: workers that share a trial's folds; 0 trains them in the trial's own process.
        runner: trains a fold; None for `cgn.fit.fit`, which gets the pairs on the device once for all trials.
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
            ResourcesError: the cluster has no room for one trial.
        """
        workers = self.cluster.slots(self.resources)
        if workers < self.fold_workers:
            raise ResourcesError(
                f"a trial needs {self.fold_workers} fold workers but the cluster has room for {workers} "
                f"of {self.resources.cpus:g} CPUs and {self.resources.gpus:g} GPUs",
                remedy="lower --fold-workers",
            )
        slots = workers // max(1, self.fold_workers)
        return slots if self.concurrent is None else min(slots, self.concurrent)


@dataclass(frozen=True)
class TrainingSpec:
    """What workers need to train: data, ledger, resources. It is sent to every node once.

    Attributes:
        code: fingerprint of the driver's `cgn`; a worker with another one refuses to train.
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
        """The specification for a run at this site."""
        return cls(pairs, tuple(splits), site.ledger, site.resources, site.fold_workers, site.runner)

    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the data: the cache and the splits."""
        splits = splits_fingerprint(self.pairs.pair_id, self.splits)
        return {"cache": self.pairs.fingerprint, "splits": splits}

    def identity(self, config: Config, split: Split) -> Identity:
        """The identity of the unit of this fold of a configuration."""
        return Identity.of(config, split.fold, **self.fingerprints())
