"""A worker's side of a run: an actor that trains one configuration after the other.

It imports no Optuna and no MLflow. It receives configurations and reports epochs; finished folds it writes to
the ledger, and what the ledger has it reads instead of training.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cgn.config import Config
from cgn.data.pairs import Split
from cgn.errors import ClusterError, PlatformError, one_line
from cgn.provenance import code_fingerprint
from cgn.results import (
    CheckpointStore,
    CrossRun,
    EpochReport,
    FoldResult,
    FoldRun,
    facts_of,
    lockstep,
    mean_losses,
)
from cgn_platform.cluster.resources import Resources
from cgn_platform.run.folds import read_or_train
from cgn_platform.run.site import TrainingSpec
from cgn_platform.search.records import EpochUpdate

INFRASTRUCTURE = (PlatformError, OSError, ray.exceptions.RayError)
"""Errors that are not the configuration's fault: a retry, elsewhere or later, may succeed."""

UPDATE = "update"  # the key of an EpochUpdate in Tune's result


class Trainer:
    """Trains folds on one device, through the ledger.

    Raises:
        ClusterError: this process has other code of `cgn` than the driver: its units would be misnamed.
    """

    def __init__(self, spec: TrainingSpec) -> None:
        if (code := code_fingerprint()) != spec.code:
            raise ClusterError(
                f"workers must run the driver's code of cgn ({spec.code}) but this one has {code}",
                remedy="install the same version everywhere, and do not edit it while a sweep runs",
            )
        self._spec = spec
        self._train: Callable[[Config, Split, CheckpointStore], FoldRun]
        if spec.runner is not None:
            runner = spec.runner
            self._train = lambda config, split, memory: runner(config, spec.pairs, split, "cpu", memory)
            return
        from cgn.fit import Images, fit

        images = Images(spec.pairs, _device(spec.resources))
        self._train = lambda config, split, memory: fit(config, images, split, checkpoints=memory)

    def fold(self, config: Config, split: Split) -> FoldRun:
        """One fold: its epochs, then its result."""
        spec = self._spec
        return read_or_train(
            spec.ledger,
            spec.identity(config, split),
            spec.pairs,
            lambda memory: self._train(config, split, memory),
        )


class FoldActor:
    """A `Trainer` in a process of its own, asked for one epoch of one of its folds at a time."""

    def __init__(self, spec: TrainingSpec) -> None:
        self._spec, self._trainer = spec, Trainer(spec)
        self._runs: dict[int, FoldRun] = {}

    def begin(self, config: Config, number: int) -> None:
        """Prepare to train this fold; an earlier run of it is dropped."""
        self._runs.pop(number, None)
        self._runs[number] = self._trainer.fold(config, self._spec.splits[number])

    def advance(self, number: int) -> EpochReport | FoldResult:
        """The fold's next epoch or, after the last one, its result without the network, which the ledger has."""
        try:
            return next(self._runs[number])
        except StopIteration as end:
            result: FoldResult = end.value
            return replace(result, state={})


class CrossValidationTrainable(tune.Trainable):
    """Tune's trainable: all folds of a configuration, an epoch a step, over the same pairs."""

    def setup(self, config: dict[str, Any], *, spec: TrainingSpec) -> None:
        """Called once for each actor."""
        self._spec = spec
        self._folds = ActorFolds(spec) if spec.fold_workers else InProcessFolds(spec)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called for every further trial of this actor."""
        self._run: CrossRun | None = None  # frees the networks of the trial before
        self._trial_config = Config.of(new_config["config"])
        return True

    def step(self) -> dict[str, Any]:
        """The next epoch of all folds.

        Configuration and code errors are returned (`EpochUpdate.failure`) and end the trial; infrastructure
        errors are raised, so that Tune retries the trial.
        """
        try:
            update = self._advance()
        except Exception as error:  # the boundary: the actor is sound and serves the next trial
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            if isinstance(cause, INFRASTRUCTURE):
                raise cause from None
            update = EpochUpdate(failure=f"{type(cause).__name__}: {one_line(cause)}")
        return {UPDATE: update, "done": update.result is not None or update.failure is not None}

    def cleanup(self) -> None:
        """Called when the actor is no longer needed."""
        self._folds.close()

    def _advance(self) -> EpochUpdate:
        begin = time.perf_counter()
        if self._run is None:
            self._run = self._folds.run(self._trial_config)
        report = next(self._run)
        result = None
        if report.epoch + 1 >= self._trial_config.epochs:
            try:
                next(self._run)
            except StopIteration as end:
                units = [self._spec.identity(self._trial_config, split).id for split in self._spec.splits]
                result = facts_of(end.value) | {"units": units}
        return EpochUpdate(
            epoch=report.epoch,
            val_auc=report.val_auc,
            folds={fold.fold: fold.val_auc for fold in report.folds},
            losses=mean_losses([fold.losses for fold in report.folds]),
            seconds=time.perf_counter() - begin,
            scores=np.concatenate([fold.val_scores for fold in report.folds]),
            result=result,
        )


class InProcessFolds:
    """The folds of a trial in its own process, one after the other."""

    def __init__(self, spec: TrainingSpec) -> None:
        self._spec, self._trainer = spec, Trainer(spec)

    def run(self, config: Config) -> CrossRun:
        """All folds in lockstep."""
        folds = [self._trainer.fold(config, split) for split in self._spec.splits]
        return lockstep(folds, config.epochs)

    def close(self) -> None:
        """Nothing to end."""


class ActorFolds:
    """The folds of a trial in actors, one actor in each bundle of the trial's placement group."""

    def __init__(self, spec: TrainingSpec) -> None:
        self._spec = spec
        group, resources, shared = get_current_placement_group(), spec.resources, ray.put(spec)
        self._actors = [
            ray.remote(FoldActor)
            .options(
                num_cpus=resources.cpus,
                num_gpus=resources.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle),
            )
            .remote(shared)
            for bundle in range(spec.fold_workers)
        ]
        self._pool = ThreadPoolExecutor(spec.fold_workers)

    def run(self, config: Config) -> CrossRun:
        """All folds in lockstep, each epoch at once."""
        numbers = range(len(self._spec.splits))
        actors = [self._actors[number % len(self._actors)] for number in numbers]
        ray.get([actor.begin.remote(config, n) for actor, n in zip(actors, numbers, strict=True)])
        folds = [_remote_fold(actor, number) for actor, number in zip(actors, numbers, strict=True)]
        return lockstep(folds, config.epochs, self._together)

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._pool.shutdown(wait=False)

    def _together(self, call: Callable[[Any], Any], folds: Iterable[Any]) -> Iterable[Any]:
        return list(self._pool.map(call, folds))


def _remote_fold(actor: Any, number: int) -> FoldRun:
    """A fold that trains in an actor, as an iterator of epochs here."""
    while True:
        answer = ray.get(actor.advance.remote(number))
        if isinstance(answer, FoldResult):
            return answer
        yield answer


def _device(resources: Resources) -> str:
    """Where this worker computes. To Ray a fraction of a GPU is bookkeeping; here it becomes a memory limit."""
    import torch

    torch.set_num_threads(max(1, int(resources.cpus)))
    if resources.gpus == 0 or not torch.cuda.is_available():
        return "cpu"
    if resources.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(resources.gpus)
    return "cuda"
