"""A sweep: Ray Tune as a pair of hands that runs trials where there is room and obeys the study.

Workers (`cgn_platform.worker`) tell epochs; the desk, here in the driver, decides and writes.
"""

import contextlib
import logging
import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper
from rich.console import Console

from cgn import errors
from cgn.config import Config
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import ClusterError, PlatformError, ResourcesError
from cgn.provenance import code_version
from cgn_platform import tracking
from cgn_platform.cluster import END_SECONDS, Cluster, Resources, scratch
from cgn_platform.console import SweepConsole
from cgn_platform.events import Parent
from cgn_platform.ledger import Ledger
from cgn_platform.metrics import SweepMetrics
from cgn_platform.preflight import preflight
from cgn_platform.pruning import Scores, audited
from cgn_platform.space import Space
from cgn_platform.study import ENDED, Asked, State, Study, TrialRecord, open_study
from cgn_platform.worker import STEP, Runner, Step, Trial, Work

Answer = TypeVar("Answer")
PULSE_SECONDS = 0.5
GONE_SECONDS = 10  # that the cluster's control service may be silent
RETRIES = 3  # of a trial whose worker was lost, before it counts as failed


def run_sweep(
    space: Space,
    pairs: Pairs,
    splits: Sequence[Split],
    *,
    name: str,
    store: Path,
    cluster: Cluster,
    resources: Resources,
    console: Console,
    runner: Runner | None = None,
    concurrent: int | None = None,
    ledger: str | None = None,
    checkpoint_every: int = 5,
    fold_workers: int = 0,
    audit: float = 0.0,
) -> list[TrialRecord]:
    """Open the study, run what it still asks for, show and record it; all its trials.

    Raises:
        ResourcesError: no node has room for a trial; nothing was written then.
        StudyError: another driver holds the study, or under this name stands another search.
        ClusterError: the cluster is gone, or runs other code.
        LedgerError: its storage takes no more.
        SystemExit: after SIGTERM or Ctrl-C, once all is in order.
    """
    work = Work(
        pairs,
        tuple(splits),
        resources,
        ledger or str((store / "units").absolute()),
        every=checkpoint_every,
        runner=runner,
        fold_workers=fold_workers,
    )
    room = room_for(space, work, trial_slots(cluster, work))
    preflight(cluster, resources=resources, store=store, ledger=work.ledger, needs_bytes=room)
    identity = {"cache": pairs.fingerprint, "splits": splits_fingerprint(pairs.pair_id, splits)}
    scores = Scores.of(pairs, splits, Ledger(work.ledger))
    with open_study(name, space, store=store, identity=identity, scores=scores) as study:
        before = study.trials()
        _say_what_stands(console, study)
        about = Parent(
            experiment=pairs.name,
            study=name,
            study_id=study.id,
            tags={**identity, "code": work.code, "git_commit": code_version()},
            params={"sampler_seed": str(space.seed), **{k: str(d) for k, d in space.dimensions.items()}},
            folds=len(splits),
        )
        tracker = tracking.Tracker(
            store,
            tracking.default_uri(store),
            about,
            records=before,
            ledger=Ledger(work.ledger),
            on_problem=lambda told: console.print(told, markup=False, style="yellow"),
        )
        figures = SweepMetrics(name, space.trials, before, lambda: tracker.left)
        status = "KILLED"
        try:
            with SweepConsole(console, space.trials, before) as screen, figures:
                run_trials(
                    study,
                    work,
                    cluster=cluster,
                    listeners=[screen, tracker, figures],
                    concurrent=concurrent,
                    audit=audit,
                )
            status = "FINISHED" if study.remaining() == 0 else "KILLED"
        except SystemExit:
            console.print("asked to end: the same command goes on from here")
            raise
        finally:
            records = study.trials()
            tracker.close(status, records)
        return records


def _say_what_stands(console: Console, study: Study) -> None:
    stands = sum(record.state in ENDED for record in study.trials())
    if stands or study.orphans:
        again = f", {study.orphans} of a driver that ended are asked again" if study.orphans else ""
        console.print(f"study {study.name}: {stands} of {study.space.trials} trials stand{again}")


class Listener(Protocol):
    """Who is told: the terminal, MLflow, Prometheus. Called within Tune's loop, so it must not wait."""

    def started(self, trial: Asked) -> None:
        """A trial was asked for."""

    def epoch(self, number: int, step: Step) -> None:
        """A trial finished an epoch."""

    def lost(self, number: int, cause: str) -> None:
        """A trial's worker was lost; it is tried again."""

    def ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""


class Desk:
    """Decides on what workers tell, without Ray: decisions can be replayed from recorded curves."""

    def __init__(
        self,
        study: Study,
        listeners: Sequence[Listener] = (),
        forget: Callable[[Config], None] = lambda _config: None,
        audit: float = 0.0,
    ) -> None:
        """Open for trials.

        Args:
            study: is asked and told.
            listeners: hear what happens.
            forget: removes the checkpoints of a configuration with which nobody goes on.
            audit: share of the trials to finish although the pruner would stop them; they tell
                `would_prune_at`, after how many epochs.
        """
        self._study, self._listeners, self._forget, self._audit = study, listeners, forget, audit
        self._open: dict[int, _Open] = {}

    def next(self) -> Asked | None:
        """The next trial to run; None when the total is asked."""
        while self._study.remaining():
            asked = self._study.ask()
            if isinstance(asked, TrialRecord):
                self._tell_listeners("ended", asked)
                continue
            self._open[asked.number] = _Open(asked.config)
            self._tell_listeners("started", asked)
            return asked
        return None

    def tell(self, number: int, step: Step) -> bool:
        """One epoch. Returns whether the trial shall stop."""
        trial = self._open.get(number)
        if trial is None:
            return True
        if step.failure is not None:
            return self._end(number, "failed", reason=step.failure)
        if step.epoch < len(trial.steps):
            return False  # after its worker was lost, a trial tells again what it told before
        if not math.isfinite(step.val_auc):
            return self._end(number, "failed", reason=f"the score of epoch {step.epoch} is no number")
        trial.steps.append(step)
        self._study.report(number, step.epoch, step.val_auc, step.scores)
        self._tell_listeners("epoch", number, step)
        if step.result is not None:
            facts = dict(step.result)
            value = facts.pop("val_auc")
            if value is None:
                return self._end(number, "failed", reason="the final score is no number")
            return self._end(number, "complete", value, **facts)
        if trial.would_prune_at is None and self._study.should_prune(number):
            epochs, space = step.epoch + 1, self._study.space
            if not audited(space.seed, number, self._audit):
                reason = f"{space.prune.rule} pruner after {epochs} epochs at mean validation AUC"
                return self._end(number, "pruned", reason=f"{reason} {step.val_auc:.3f}")
            trial.would_prune_at = epochs
        return False

    def lost(self, number: int, cause: str) -> None:
        """The trial's process ended, or its machine or storage failed it; it is tried again."""
        if number in self._open:
            self._open[number].losses.append(cause)
            self._tell_listeners("lost", number, cause)

    def crashed(self, number: int, cause: str) -> None:
        """It was tried often enough. The next run of the command asks for it again."""
        if number in self._open:
            self._end(number, "failed", reason=cause, lost=True)

    def _end(self, number: int, state: State, value: float | None = None, **facts: Any) -> bool:
        trial = self._open[number]
        if state != "complete" and "lost" not in facts:
            # Before the study knows: a driver that dies in between tries this trial again.
            self._forget(trial.config)
        facts |= {"epochs": len(trial.steps), "seconds": round(sum(s.seconds for s in trial.steps), 3)}
        if state != "complete":  # what the ledger will not hold, since no unit is finished
            facts["steps"] = [_plain(step) for step in trial.steps]
        if trial.would_prune_at is not None:
            facts["would_prune_at"] = trial.would_prune_at
        if trial.losses:
            facts["lost_workers"] = trial.losses
        record = self._study.tell(number, state, value, **facts)
        del self._open[number]
        self._tell_listeners("ended", record)
        return True

    def _tell_listeners(self, event: str, *facts: Any) -> None:
        for listener in self._listeners:
            getattr(listener, event)(*facts)


@dataclass
class _Open:
    """A trial that runs: what it told, why it was tried again, when it would have been stopped."""

    config: Config
    steps: list[Step] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    would_prune_at: int | None = None


def _plain(step: Step) -> dict[str, Any]:
    """An epoch as JSON, as the study keeps it."""
    return {
        "epoch": step.epoch,
        "val_auc": step.val_auc,
        "folds": {str(fold): auc for fold, auc in (step.folds or {}).items()},
        "losses": dict(step.losses or {}),
        "seconds": round(step.seconds, 3),
    }


def run_trials(
    study: Study,
    work: Work,
    *,
    cluster: Cluster,
    listeners: Sequence[Listener] = (),
    concurrent: int | None = None,
    audit: float = 0.0,
) -> None:
    """Run the trials that the study still asks for.

    Raises:
        ResourcesError: no node has room for one trial.
        ClusterError: the cluster is gone.
        SystemExit: after SIGTERM or Ctrl-C, once all is in order; with 128 and the signal's number.
    """
    slots = min(trial_slots(cluster, work), concurrent or sys.maxsize)
    if not (remaining := study.remaining()):
        return
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the desk tells it better
    ledger = Ledger(work.ledger)

    def forget(config: Config) -> None:
        for split in work.splits:
            ledger.forget(work.identity(config, split).id)

    guard = _Guard(Desk(study, listeners, forget, audit))
    with scratch() as folder:
        options = {
            "name": study.name,
            "search_alg": _Asker(guard),
            "scheduler": _Stopper(guard),
            "callbacks": [_Losses(guard)],
            "stop": _End(guard),
            "num_samples": remaining,
            # Without it a searcher of one's own is asked for one trial at a time.
            "max_concurrent_trials": slots,
            "resources_per_trial": _bundles(work),
            "max_failures": RETRIES,
            "reuse_actors": True,
            "storage_path": str(folder),
            "raise_on_failed_trial": False,
            "verbose": 0,
        }
        # Arrays go to the object store here, once, and are mapped by every actor of a node.
        trainable = tune.with_parameters(Trial, work=work)
        guard.watch(lambda: tune.run(trainable, **options), _watchman())


def _watchman() -> Callable[[], str | None]:
    """Tells whether the connected Ray has been silent for too long: its control service, or our own node.

    Ray itself waits up to a minute for them, then ends the process without a word of ours.
    """
    here = ray.get_runtime_context()
    node = next(each for each in ray.nodes() if each["NodeID"] == here.get_node_id())
    host, _, port = here.gcs_address.rpartition(":")
    doors = [(host, int(port)), (node["NodeManagerAddress"], node["NodeManagerPort"])]
    heard = time.monotonic()

    def gone() -> str | None:
        nonlocal heard
        try:
            for door in doors:
                socket.create_connection(door, timeout=PULSE_SECONDS).close()
        except OSError as error:
            silent = time.monotonic() - heard
            return f"the cluster at {host}:{port} is gone ({error})" if silent > GONE_SECONDS else None
        heard = time.monotonic()
        return None

    return gone


def trial_slots(cluster: Cluster, work: Work) -> int:
    """How many trials fit at once.

    Raises:
        ResourcesError: not one.
    """
    places = cluster.slots(work.resources)
    if places < work.fold_workers:
        raise ResourcesError(
            f"a trial asks for {work.fold_workers} fold workers but the cluster has room for {places} "
            f"of {work.resources.cpus:g} CPUs and {work.resources.gpus:g} GPUs: lower --fold-workers"
        )
    return places // max(1, work.fold_workers)


def room_for(space: Space, work: Work, slots: int) -> int:
    """Bytes that a sweep will write: a model a finished fold, and the checkpoints of those that run."""
    if work.runner is not None:
        return 0
    import torch

    from cgn import methods

    with torch.device("meta"):  # counted, not made
        network = methods.build(space.base.edit(backbone_weights="none"))
    model = sum(int(tensor.nbytes) for tensor in network.state_dict().values())
    return model * len(work.splits) * (space.trials + 4 * slots)  # model, best model, two moments


def _bundles(work: Work) -> tune.PlacementGroupFactory:
    """What a trial takes of the cluster: one bundle, or one for each of its fold workers."""
    bundle = {"CPU": work.resources.cpus, "GPU": work.resources.gpus}
    return tune.PlacementGroupFactory([{}, *[bundle] * work.fold_workers] if work.fold_workers else [bundle])


class _Guard:
    """Ends the sweep where the desk cannot go on, the cluster is gone, or somebody asks for the end.

    Tune runs in a thread of its own, since it waits for ever for a cluster that is gone, and takes what
    goes wrong at the desk for an error of the trial.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.numbers: dict[str, int] = {}  # of Tune's trial ids
        self.causes: dict[str, str] = {}
        self.broken: BaseException | None = None

    def __call__(self, call: Callable[[], Answer], otherwise: Answer) -> Answer:
        if self.broken is None:
            try:
                return call()
            except Exception as error:
                self.broken = error
        return otherwise

    def watch(self, sweep: Callable[[], object], gone: Callable[[], str | None]) -> None:
        """Run the sweep to its end. Raises what ended it early.

        Args:
            sweep: ends soon after `broken` is set, unless the cluster is gone.
            gone: why the cluster is no longer there, as far as one can tell.
        """

        def work() -> None:
            try:
                sweep()
            except Exception as error:
                self.broken = self.broken or error

        hands = threading.Thread(target=work, name="tune", daemon=True)
        with _signals(self._asked_to_end):
            hands.start()
            while hands.is_alive() and self.broken is None:
                hands.join(PULSE_SECONDS)
                if why := gone():
                    self.broken = ClusterError(f"{why}: run the same command again; what is finished stands")
                    raise self.broken  # Tune is not waited for: it would wait for the cluster
            hands.join(END_SECONDS)
        if self.broken is not None:
            raise self.broken

    def _asked_to_end(self, number: int) -> None:
        self.broken = self.broken or SystemExit(128 + number)


@contextlib.contextmanager
def _signals(heard: Callable[[int], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM (a spot machine's notice, `ray job stop`) are heard once, then do what they did."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        heard(number)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _End(Stopper):
    """Tune's way to learn that all shall stop."""

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard

    def __call__(self, *_: Any) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._guard.broken is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes it down; nobody reads that


class _Asker(Searcher):
    """Tune's way to ask the study and to tell it the end."""

    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._guard = guard

    def suggest(self, trial_id: str) -> Any:
        asked = self._guard(self._guard.desk.next, None)
        if asked is None:
            return Searcher.FINISHED
        self._guard.numbers[trial_id] = asked.number
        return {"config": asked.config.model_dump(mode="json")}

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        guard, number = self._guard, self._guard.numbers.pop(trial_id)
        cause = guard.causes.pop(trial_id, "its process ended")
        if result is not None and STEP in result and not error:
            guard(lambda: guard.desk.tell(number, result[STEP]), otherwise=True)
        elif error:
            guard(lambda: guard.desk.crashed(number, cause), otherwise=None)
            guard.broken = guard.broken or _of_all(cause)

    def save_to_dir(self, *_: Any, **__: Any) -> None:
        """Nothing: the study is the memory."""

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True


class _Stopper(FIFOScheduler):
    """Tune's way to report an epoch and to learn that a trial shall stop."""

    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._guard = guard

    def on_trial_result(self, _controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        guard, number = self._guard, self._guard.numbers[trial.trial_id]
        stop = guard(lambda: guard.desk.tell(number, result[STEP]), otherwise=True)
        return str(self.STOP if stop else self.CONTINUE)

    def on_trial_error(self, _controller: Any, trial: Any) -> None:
        self._guard.causes[trial.trial_id] = _cause(trial)


class _Losses(tune.Callback):
    """Tune's way to tell that a trial's worker was lost and that it tries again."""

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard

    def on_trial_recover(self, **info: Any) -> None:
        guard, trial = self._guard, info["trial"]
        number = guard.numbers[trial.trial_id]
        guard(lambda: guard.desk.lost(number, _cause(trial)), otherwise=None)


def _cause(trial: Any) -> str:
    """One line from what Tune wrote of a trial's error: the exception, or what became of its process."""
    try:
        lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines() if line.strip()]
    except (OSError, TypeError):
        return "its process ended"
    raised = any(line.startswith("Traceback") or "ray::" in line for line in lines)
    return lines[-1] if raised else " ".join(lines[1:2])


def _of_all(cause: str) -> PlatformError | None:
    """The error where a worker found a fault that every trial will find: a full ledger, other code."""
    name, _, told = cause.partition(": ")
    kind = getattr(errors, name.removeprefix("cgn.errors."), None)
    return kind(told) if isinstance(kind, type) and issubclass(kind, PlatformError) else None
