"""A worker's side of a sweep: an actor that trains one configuration after the other.

It imports no Optuna and no MLflow: it tells epochs and is told nothing but configurations. What it
finishes it writes to the ledger, and what is there already it reads instead of training it.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import tune
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cgn.config import Config
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import ClusterError, PlatformError
from cgn.provenance import code_fingerprint
from cgn.results import CrossRun, EpochReport, FoldResult, FoldRun, Memory, facts_of, lockstep, mean_losses
from cgn_platform.cluster import Resources
from cgn_platform.ledger import Identity, Ledger

Runner = Callable[[Config, Pairs, Split, str, Memory], FoldRun]  # as cgn.fit.fit, or one that simulates it

# Errors that are no fault of a configuration: another attempt, elsewhere or later, may do.
INFRASTRUCTURE = (PlatformError, OSError, ray.exceptions.RayError)

STEP = "step"  # the key of a Step in Tune's result


@dataclass(frozen=True)
class Step:
    """One epoch of a trial, as its worker tells it.

    Attributes:
        epoch: from 0.
        val_auc: mean over all folds at this epoch.
        folds: validation AUC of each fold.
        losses: mean over folds, by term.
        seconds: of this epoch, all folds.
        scores: of each validated case, fold after fold.
        result: facts of the finished cross-validation, with its last epoch.
        failure: why the trial cannot go on; no other field counts then.
    """

    epoch: int = -1
    val_auc: float = math.nan
    folds: Mapping[int, float] | None = None
    losses: Mapping[str, float] | None = None
    seconds: float = 0.0
    scores: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    result: Mapping[str, Any] | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Work:
    """All that the trials of a sweep have in common.

    Attributes:
        runner: trains a fold; None takes `cgn.fit.fit`, with the pairs on the device once for all trials.
        resources: of a trial or, where folds have actors of their own, of each of these.
        ledger: a folder or an address that every worker reaches.
        every: epochs between two checkpoints.
        fold_workers: actors that share a trial's folds; 0 trains them in the trial's own process.
        code: of `cgn`, as the driver has it.
    """

    pairs: Pairs
    splits: tuple[Split, ...]
    resources: Resources
    ledger: str
    every: int = 5
    runner: Runner | None = None
    fold_workers: int = 0
    code: str = field(default_factory=code_fingerprint)

    def identity(self, config: Config, split: Split) -> Identity:
        """Of the unit that this fold of a configuration is."""
        splits = splits_fingerprint(self.pairs.pair_id, self.splits)
        return Identity.of(config, split.fold, splits=splits, cache=self.pairs.fingerprint)


class Trainer:
    """Trains folds on one device, through the ledger.

    Raises:
        ClusterError: this process has other code of `cgn` than the driver: its units would be misnamed.
    """

    def __init__(self, work: Work) -> None:
        if (code := code_fingerprint()) != work.code:
            raise ClusterError(
                f"workers must run the driver's code of cgn ({work.code}) but this one has {code}: install "
                "the same version everywhere, and do not edit it while a sweep runs"
            )
        self._work, self._ledger = work, Ledger(work.ledger, work.every)
        device = _device(work.resources)
        if work.runner is None:
            from cgn.fit import Images, fit

            images = Images(work.pairs, device)
            self._train: Callable[[Config, Split, Memory], FoldRun] = lambda config, split, memory: fit(
                config, images, split, memory=memory
            )
        else:
            runner = work.runner
            self._train = lambda config, split, memory: runner(config, work.pairs, split, device, memory)

    def fold(self, config: Config, split: Split) -> FoldRun:
        """One fold: its epochs, then its result."""
        return self._ledger.remembered(
            self._work.identity(config, split),
            self._work.pairs,
            lambda memory: self._train(config, split, memory),
        )


class FoldActor:
    """A `Trainer` in a process of its own, asked for one epoch of one of its folds at a time."""

    def __init__(self, work: Work) -> None:
        self._work, self._trainer = work, Trainer(work)
        self._runs: dict[int, FoldRun] = {}

    def begin(self, config: Config, number: int) -> None:
        """Get ready to train this fold; what was trained before in its place is dropped."""
        self._runs.pop(number, None)
        self._runs[number] = self._trainer.fold(config, self._work.splits[number])

    def advance(self, number: int) -> EpochReport | FoldResult:
        """Its next epoch or, after the last one, its result; the network itself stays in the ledger."""
        try:
            return next(self._runs[number])
        except StopIteration as end:
            result: FoldResult = end.value
            return replace(result, state={})


class Trial(tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """A worker's side: one configuration after the other over the same pairs."""

    def setup(self, config: dict[str, Any], *, work: Work) -> None:
        """Called once an actor."""
        self._work = work
        self._folds = _Apart(work) if work.fold_workers else _Here(work)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called for every further trial of this actor."""
        self._run: CrossRun | None = None  # frees the networks of the trial before
        self._trial_config = Config.of(new_config["config"])
        return True

    def step(self) -> dict[str, Any]:
        """The next epoch of all folds.

        What the configuration or the code is guilty of is told; what the machine or the storage is
        guilty of is raised, and Tune tries again elsewhere.
        """
        try:
            step = self._advance()
        except Exception as error:  # the boundary: the actor is sound and serves the next trial
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            if isinstance(cause, INFRASTRUCTURE):
                raise
            step = Step(failure=f"{type(cause).__name__}: {' '.join(str(cause).split())}")
        return {STEP: step, "done": step.result is not None or step.failure is not None}

    def cleanup(self) -> None:
        """Called when the actor is no longer needed."""
        self._folds.close()

    def _advance(self) -> Step:
        begin = time.perf_counter()
        if self._run is None:
            self._run = self._folds.run(self._trial_config)
        report = next(self._run)
        result = None
        if report.epoch + 1 >= self._trial_config.epochs:
            try:
                next(self._run)
            except StopIteration as end:
                units = [self._work.identity(self._trial_config, split).id for split in self._work.splits]
                result = facts_of(end.value) | {"units": units}
        return Step(
            epoch=report.epoch,
            val_auc=report.val_auc,
            folds={fold.fold: fold.val_auc for fold in report.folds},
            losses=mean_losses([fold.losses for fold in report.folds]),
            seconds=time.perf_counter() - begin,
            scores=np.concatenate([fold.val_scores for fold in report.folds]),
            result=result,
        )


class _Here:
    """The folds of a trial in its own process, one after the other."""

    def __init__(self, work: Work) -> None:
        self._work, self._trainer = work, Trainer(work)

    def run(self, config: Config) -> CrossRun:
        folds = [self._trainer.fold(config, split) for split in self._work.splits]
        return lockstep(folds, config.epochs)

    def close(self) -> None:
        pass


class _Apart:
    """The folds of a trial in actors of their own, one in each bundle of its placement group."""

    def __init__(self, work: Work) -> None:
        self._work = work
        group, resources, shared = get_current_placement_group(), work.resources, ray.put(work)
        self._actors = [
            ray.remote(FoldActor)
            .options(
                num_cpus=resources.cpus,
                num_gpus=resources.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle),
            )
            .remote(shared)
            for bundle in range(work.fold_workers)
        ]
        self._pool = ThreadPoolExecutor(work.fold_workers)

    def run(self, config: Config) -> CrossRun:
        numbers = range(len(self._work.splits))
        actors = [self._actors[number % len(self._actors)] for number in numbers]
        ray.get([actor.begin.remote(config, n) for actor, n in zip(actors, numbers, strict=True)])
        folds = [_of_actor(actor, number) for actor, number in zip(actors, numbers, strict=True)]
        return lockstep(folds, config.epochs, self._together)

    def _together(self, call: Callable[[Any], Any], folds: Iterable[Any]) -> Iterable[Any]:
        return list(self._pool.map(call, folds))

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._pool.shutdown(wait=False)


def _of_actor(actor: Any, number: int) -> FoldRun:
    """A fold that trains elsewhere, as if it trained here."""
    while True:
        told = ray.get(actor.advance.remote(number))
        if isinstance(told, FoldResult):
            return told
        yield told


def _device(resources: Resources) -> str:
    """Where this worker computes; a fraction of a GPU is made a limit, since to Ray it is bookkeeping."""
    if resources.gpus == 0 and "torch" not in sys.modules:
        return "cpu"  # a simulated trainer needs no torch
    import torch

    torch.set_num_threads(max(1, int(resources.cpus)))
    if resources.gpus == 0 or not torch.cuda.is_available():
        return "cpu"
    if resources.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(resources.gpus)
    return "cuda"
