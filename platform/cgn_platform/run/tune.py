"""Ray Tune as the executor of a study: a searcher and a scheduler that follow the trial controller.

Ray's own Optuna searcher is not used: its pruner never prunes, and it stores pruned trials as complete.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cgn.config import Config
from cgn.errors import PlatformError, one_line
from cgn_platform.cluster.temporary import scratch
from cgn_platform.run.site import Site, TrainingSpec
from cgn_platform.run.supervisor import SweepSupervisor, cluster_probe
from cgn_platform.run.worker import ERROR, UPDATE, CrossValidationTrainable
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
        ClusterError: the cluster is lost, or workers run other code.
        LedgerError: workers cannot write the ledger.
        SystemExit: after SIGTERM or Ctrl-C, once everything is stored; 128 plus the signal's number.
    """
    slots = site.slots()
    if not (remaining := study.remaining()):
        return
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # listeners report the errors

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
            # Without it, Tune requests one trial at a time from a searcher that is not Ray's own.
            "max_concurrent_trials": slots,
            "resources_per_trial": _bundles(spec),
            "max_failures": RETRIES,
            "reuse_actors": True,
            "storage_path": str(folder),
            "raise_on_failed_trial": False,
            "verbose": 0,
        }
        # The arrays go to the object store once; every actor of a node maps them.
        trainable = tune.with_parameters(CrossValidationTrainable, spec=spec)
        supervisor.run(lambda: tune.run(trainable, **options), cluster_probe())


def required_bytes(space: Space, spec: TrainingSpec, slots: int) -> int:
    """Bytes that a sweep will write at most: models of finished folds, and checkpoints of running ones.

    0, which is unknown, for another runner than `cgn.fit.fit`: what it stores of a fold is its own affair.
    """
    if spec.runner is not None:
        return 0
    import torch

    from cgn import methods

    with torch.device("meta"):  # shapes only, no memory
        network = methods.build(space.base.edit(backbone_weights="none"))
    model = sum(int(tensor.nbytes) for tensor in network.state_dict().values())
    return model * len(spec.splits) * (space.trials + 4 * slots)  # model, best model, two moments


def _bundles(spec: TrainingSpec) -> tune.PlacementGroupFactory:
    """What a trial reserves: one bundle, or one per fold worker."""
    bundle = {"CPU": spec.resources.cpus, "GPU": spec.resources.gpus}
    return tune.PlacementGroupFactory([{}, *[bundle] * spec.fold_workers] if spec.fold_workers else [bundle])


class StopAll(Stopper):
    """Stops every trial once the supervisor has a reason."""

    def __init__(self, supervisor: SweepSupervisor) -> None:
        self._supervisor = supervisor

    def __call__(self, *_: Any) -> bool:
        """Never stop a single trial: the scheduler does that."""
        return False

    def stop_all(self) -> bool:
        """Whether the sweep ends now."""
        return self._supervisor.failure is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it into its scratch folder, which is never read


class StudySearcher(Searcher):
    """Gets trials from the controller, and reports how they end."""

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
        """Report the last epoch, or the error of the last retry."""
        supervisor, number = self._supervisor, self._supervisor.numbers.pop(trial_id)
        last_error, controller = supervisor.errors.pop(trial_id, None), supervisor.controller
        if result is not None and UPDATE in result and not error:
            supervisor.guard(lambda: controller.report(number, result[UPDATE]), otherwise=True)
        elif error:
            supervisor.guard(lambda: controller.crashed(number, describe(last_error)), otherwise=None)
            if isinstance(last_error, PlatformError):  # full storage, other code: every trial would fail
                supervisor.failure = supervisor.failure or last_error

    def save_to_dir(self, *_: Any, **__: Any) -> None:
        """Do nothing: the search is stored in the study."""

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        """Accept Tune's metric and mode, which are not used."""
        return True


class StudyScheduler(FIFOScheduler):
    """Reports epochs to the controller, and stops trials when the controller says so."""

    def __init__(self, supervisor: SweepSupervisor) -> None:
        super().__init__()
        self._supervisor = supervisor

    def on_trial_result(self, _controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Continue or stop after an epoch."""
        supervisor, number = self._supervisor, self._supervisor.numbers[trial.trial_id]
        if ERROR in result:
            supervisor.errors[trial.trial_id] = result[ERROR]
            return str(self.CONTINUE)  # the next step raises it, so that Tune retries the trial
        stop = supervisor.guard(lambda: supervisor.controller.report(number, result[UPDATE]), otherwise=True)
        return str(self.STOP if stop else self.CONTINUE)


class RetryCallback(tune.Callback):
    """Informs the controller that a trial's worker was lost and that Tune retries the trial."""

    def __init__(self, supervisor: SweepSupervisor) -> None:
        self._supervisor = supervisor

    def on_trial_recover(self, **info: Any) -> None:
        """Called before the retry."""
        supervisor, trial_id = self._supervisor, info["trial"].trial_id
        number, cause = supervisor.numbers[trial_id], describe(supervisor.errors.pop(trial_id, None))
        supervisor.guard(lambda: supervisor.controller.lost(number, cause), otherwise=None)


def describe(error: BaseException | None) -> str:
    """An error in one line, as the study stores it; None if the worker did not report one."""
    return "its process ended" if error is None else f"{type(error).__name__}: {one_line(error)}"
