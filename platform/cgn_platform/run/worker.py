"""The worker's side of a run: actors that train one configuration after another.

A worker receives configurations and reports epochs. It writes finished folds to the ledger, and reads a fold
that the ledger has instead of training it. It imports neither Optuna nor MLflow.
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
    last,
    lockstep,
    mean_losses,
)
from cgn_platform.cluster.resources import Resources
from cgn_platform.run.folds import read_or_train
from cgn_platform.run.site import TrainingSpec
from cgn_platform.search.records import EpochUpdate

INFRASTRUCTURE = (PlatformError, OSError, ray.exceptions.RayError)
"""Errors that are not the configuration's fault: a retry, elsewhere or later, may succeed."""

UPDATE, ERROR = "update", "error"
"""Keys in Tune's result: an `EpochUpdate`, or the infrastructure error that the next step raises."""

Train = Callable[[Config, Split, CheckpointStore], FoldRun]
"""Trains a fold from these checkpoints, on data that are loaded already."""


class WorkerError(ray.exceptions.RayError):
    """A worker could not start: its GPU's memory is full, for example. Another worker may start."""


class Trainer:
    """Trains folds on one device, through the ledger.

    `start` is not part of the constructor: an error of an actor's constructor reaches the caller as text, an
    error of a method as an exception.
    """

    def __init__(self, spec: TrainingSpec) -> None:
        self._spec = spec
        self._train: Train | None = None

    def fold(self, config: Config, split: Split) -> FoldRun:
        """Yield the epochs of a fold, and return its result.

        Raises:
            LedgerError: the result cannot be written.
            Exception: whatever `start` or training raises.
        """
        spec, train = self._spec, self.start()
        identity = spec.identity(config, split)
        return (
            yield from read_or_train(
                spec.ledger, identity, spec.pairs, lambda checkpoints: train(config, split, checkpoints)
            )
        )

    def start(self) -> Train:
        """Check this process's code and load the data onto the device, once. Returns what trains a fold.

        Raises:
            ClusterError: this process has other code of `cgn` than the driver; its units would be misnamed.
            WorkerError: the data cannot be loaded onto the device.
        """
        if self._train is None:
            self._check_code()
            self._train = self._load()
        return self._train

    def _check_code(self) -> None:
        spec = self._spec
        if (code := code_fingerprint()) != spec.code:
            raise ClusterError(
                f"workers must run the driver's code of cgn ({spec.code}) but this one has {code}",
                remedy="install the same version everywhere, and do not edit it while a sweep runs",
            )

    def _load(self) -> Train:
        spec, runner = self._spec, self._spec.runner
        if runner is not None:
            return lambda config, split, checkpoints: runner(config, spec.pairs, split, "cpu", checkpoints)
        try:
            from cgn.fit import fit
            from cgn.images import Images

            images = Images(spec.pairs, _device(spec.resources))
        except Exception as error:  # not an error of the configuration, which would end the trial
            raise WorkerError(f"{type(error).__name__}: {one_line(error)}") from None
        return lambda config, split, checkpoints: fit(config, images, split, checkpoints=checkpoints)


class FoldActor:
    """A `Trainer` in a process of its own, which trains one epoch of one of its folds per call."""

    def __init__(self, spec: TrainingSpec) -> None:
        self._spec, self._trainer = spec, Trainer(spec)
        self._runs: dict[int, FoldRun] = {}

    def begin(self, config: Config, number: int) -> None:
        """Prepare to train a fold. An earlier run of this fold is dropped."""
        self._runs.pop(number, None)
        self._runs[number] = self._trainer.fold(config, self._spec.splits[number])
        self._trainer.start()  # an error is raised again by `advance`, for callers that do not wait for this

    def advance(self, number: int) -> EpochReport | FoldResult:
        """Train the next epoch of a fold.

        Returns:
            The epoch; after the last one the result, without the network, which is in the ledger.
        """
        try:
            return next(self._runs[number])
        except StopIteration as end:
            result: FoldResult = end.value
            return replace(result, state={})


class CrossValidationTrainable(tune.Trainable):
    """Tune's trainable: all folds of a configuration; a step is one epoch of each."""

    def setup(self, config: dict[str, Any], *, spec: TrainingSpec) -> None:
        """Called once per actor."""
        self._spec = spec
        self._folds = ActorFolds(spec) if spec.fold_workers else InProcessFolds(spec)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called for every further trial of this actor."""
        self._run: CrossRun | None = None  # frees the networks of the trial before
        self._error: BaseException | None = None
        self._trial_config = Config.of(new_config["config"])
        return True

    def step(self) -> dict[str, Any]:
        """Train the next epoch of all folds.

        Configuration and code errors are returned (`EpochUpdate.failure`) and end the trial. Infrastructure
        errors are returned as well, since Tune keeps only the text of what it catches; the next step raises
        them, so that Tune retries the trial.
        """
        if self._error is not None:
            raise self._error
        try:
            update = self._advance()
        except Exception as error:  # the actor itself is intact and can run the next trial
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            if isinstance(cause, INFRASTRUCTURE):
                self._error = cause
                return {ERROR: cause, "done": False}
            update = EpochUpdate(failure=f"{type(cause).__name__}: {one_line(cause)}")
        return {UPDATE: update, "done": update.result is not None or update.failure is not None}

    def cleanup(self) -> None:
        """Called before the actor ends."""
        self._folds.close()

    def _advance(self) -> EpochUpdate:
        if self._run is None:
            self._run = self._folds.run(self._trial_config)
        begin = time.perf_counter()
        report = next(self._run)
        result = None
        if report.epoch + 1 >= self._trial_config.epochs:
            units = [self._spec.identity(self._trial_config, split).id for split in self._spec.splits]
            result = facts_of(last(self._run)) | {"units": units}
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
        """Run all folds in lockstep."""
        self._trainer.start()
        folds = [self._trainer.fold(config, split) for split in self._spec.splits]
        return lockstep(folds, config.epochs)

    def close(self) -> None:
        """Do nothing: there are no actors."""


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
        """Run all folds in lockstep; the actors train each epoch in parallel."""
        numbers = range(len(self._spec.splits))
        actors = [self._actors[number % len(self._actors)] for number in numbers]
        ray.get([a.begin.remote(config, number) for a, number in zip(actors, numbers, strict=True)])
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
    """The epochs and the result of a fold that an actor trains."""
    while True:
        answer = ray.get(actor.advance.remote(number))
        if isinstance(answer, FoldResult):
            return answer
        yield answer


def _device(resources: Resources) -> str:
    """The device to train on. Ray only counts fractions of a GPU; here they become a limit of its memory."""
    import torch

    torch.set_num_threads(max(1, int(resources.cpus)))
    if resources.gpus == 0 or not torch.cuda.is_available():
        return "cpu"
    if resources.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(resources.gpus)
    return "cuda"
