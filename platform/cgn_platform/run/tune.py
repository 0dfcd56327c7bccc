"""Ray Tune as the executor of a study: a searcher and a scheduler that obey the trial controller.

Ray's own Optuna searcher is not used: it fixes a pruner that never prunes, and stores pruned trials as complete.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cgn.config import Config
from cgn.errors import PlatformError, one_line
from cgn_platform.cluster.temporary import scratch
from cgn_platform.run.site import Site, TrainingSpec
from cgn_platform.run.supervisor import SweepSupervisor, cluster_probe
from cgn_platform.run.worker import UPDATE, CrossValidationTrainable
from cgn_platform.search.controller import Listener, TrialController
from cgn_platform.search.study import Study
from cgn_platform.space import Space

RETRIES = 3  # of a trial whose worker was lost, before it counts as failed


def run_trials(
    study: Study,
    spec: TrainingSpec,
    *,
    site: Site,
    listeners: Sequence[Listener] = (),
    audit: float = 0.0,
) -> None:
    """Run the trials that the study still lacks.

    Raises:
        ResourcesError: no node has room for one trial.
        ClusterError: the cluster is lost.
        SystemExit: after SIGTERM or Ctrl-C, once everything is stored; 128 plus the signal's number.
    """
    slots = site.slots()
    if not (remaining := study.remaining()):
        return
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # listeners say it better

    def delete_checkpoints(config: Config) -> None:
        for split in spec.splits:
            spec.ledger.delete_checkpoints(spec.identity(config, split).id)

    supervisor = SweepSupervisor(TrialController(study, listeners, delete_checkpoints, audit))
    with scratch() as folder:
        options = {
            "name": study.name,
            "search_alg": StudySearcher(supervisor),
            "scheduler": StudyScheduler(supervisor),
            "callbacks": [RetryCallback(supervisor)],
            "stop": StopAll(supervisor),
            "num_samples": remaining,
            # Without it, a searcher that is not Ray's own is asked for one trial at a time.
            "max_concurrent_trials": slots,
            "resources_per_trial": _bundles(spec),
            "max_failures": RETRIES,
            "reuse_actors": True,
            "storage_path": str(folder),
            "raise_on_failed_trial": False,
            "verbose": 0,
        }
        # Arrays go to the object store here, once, and are mapped by every actor of a node.
        trainable = tune.with_parameters(CrossValidationTrainable, spec=spec)
        supervisor.run(lambda: tune.run(trainable, **options), cluster_probe())


def required_bytes(space: Space, spec: TrainingSpec, slots: int) -> int:
    """Bytes that a sweep will write: a model for each finished fold, and the checkpoints of running ones.

    Unknown (0) for a simulated trainer.
    """
    if spec.runner is not None:
        return 0
    import torch

    from cgn import methods

    with torch.device("meta"):  # counted without memory
        network = methods.build(space.base.edit(backbone_weights="none"))
    model = sum(int(tensor.nbytes) for tensor in network.state_dict().values())
    return model * len(spec.splits) * (space.trials + 4 * slots)  # model, best model, two moments


def _bundles(spec: TrainingSpec) -> tune.PlacementGroupFactory:
    """What a trial reserves: one bundle, or one for each of its fold workers."""
    bundle = {"CPU": spec.resources.cpus, "GPU": spec.resources.gpus}
    return tune.PlacementGroupFactory([{}, *[bundle] * spec.fold_workers] if spec.fold_workers else [bundle])


class StopAll(Stopper):
    """Stops every trial once the supervisor has a reason."""

    def __init__(self, supervisor: SweepSupervisor) -> None:
        self._supervisor = supervisor

    def __call__(self, *_: Any) -> bool:
        """Never for one trial: the scheduler decides about these."""
        return False

    def stop_all(self) -> bool:
        """Whether the sweep ends now."""
        return self._supervisor.failure is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes it to its scratch folder; nobody reads it


class StudySearcher(Searcher):
    """Asks the controller for trials, and tells it how they end."""

    def __init__(self, supervisor: SweepSupervisor) -> None:
        super().__init__()
        self._supervisor = supervisor

    def suggest(self, trial_id: str) -> Any:
        """The next configuration."""
        trial = self._supervisor.guard(self._supervisor.controller.next, None)
        if trial is None:
            return Searcher.FINISHED
        self._supervisor.numbers[trial_id] = trial.number
        return {"config": trial.config.model_dump(mode="json")}

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass on the last epoch, or the error after the last retry."""
        supervisor, number = self._supervisor, self._supervisor.numbers.pop(trial_id)
        failure = supervisor.failures.pop(trial_id, None)
        controller = supervisor.controller
        if result is not None and UPDATE in result and not error:
            supervisor.guard(lambda: controller.report(number, result[UPDATE]), otherwise=True)
        elif error:
            supervisor.guard(lambda: controller.crashed(number, describe(failure)), otherwise=None)
            if isinstance(failure, PlatformError):  # a full ledger, other code: every trial will meet it
                supervisor.failure = supervisor.failure or failure

    def save_to_dir(self, *_: Any, **__: Any) -> None:
        """Nothing: the study is the search's memory."""

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Accept Tune's metric and mode, which are not used."""
        return True


class StudyScheduler(FIFOScheduler):
    """Reports epochs to the controller, and stops the trials that it stops."""

    def __init__(self, supervisor: SweepSupervisor) -> None:
        super().__init__()
        self._supervisor = supervisor

    def on_trial_result(self, _controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Continue or stop after an epoch."""
        supervisor, number = self._supervisor, self._supervisor.numbers[trial.trial_id]
        stop = supervisor.guard(lambda: supervisor.controller.report(number, result[UPDATE]), otherwise=True)
        return str(self.STOP if stop else self.CONTINUE)

    def on_trial_error(self, _controller: Any, trial: Any) -> None:
        """Keep the error until the searcher hears that no retry is left."""
        self._supervisor.failures[trial.trial_id] = error_of(trial)


class RetryCallback(tune.Callback):
    """Tells the controller that a trial's worker was lost and that Tune retries the trial."""

    def __init__(self, supervisor: SweepSupervisor) -> None:
        self._supervisor = supervisor

    def on_trial_recover(self, **info: Any) -> None:
        """Before the retry."""
        supervisor, trial = self._supervisor, info["trial"]
        number, cause = supervisor.numbers[trial.trial_id], describe(error_of(trial))
        supervisor.guard(lambda: supervisor.controller.lost(number, cause), otherwise=None)


def error_of(trial: Any) -> BaseException | None:
    """The exception that a worker raised, or that ended its process; None if Tune has none."""
    error = trial.get_pickled_error()  # written by this process to its own scratch folder
    cause: BaseException | None = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    return cause


def describe(error: BaseException | None) -> str:
    """An error in one line, for the study."""
    if error is None or isinstance(error, ray.exceptions.RayActorError):
        return "its process ended"
    return f"{type(error).__name__}: {one_line(error)}"
