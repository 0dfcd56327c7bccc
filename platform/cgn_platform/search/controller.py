"""Decides about trials from the epochs that workers report. Needs no Ray, so tests replay recorded curves."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from cgn.config import Config
from cgn.results import epoch_facts
from cgn_platform.search.pruning import is_audited
from cgn_platform.search.records import EpochUpdate, State, StudyInfo, TrialRecord, TrialSpec
from cgn_platform.search.study import Study

Outcome = Literal["FINISHED", "KILLED"]
"""How a sweep ends, by MLflow's names: all trials ended, or it was stopped before."""


class Listener(Protocol):
    """Follows a sweep: the terminal, MLflow, Prometheus.

    All methods but `begin` and `end` are called from Tune's loop and must not block.
    """

    def begin(self, study: StudyInfo) -> None:
        """The study is open; trials follow."""

    def started(self, trial: TrialSpec) -> None:
        """A trial starts."""

    def epoch(self, number: int, update: EpochUpdate) -> None:
        """A trial finished an epoch."""

    def lost(self, number: int, cause: str) -> None:
        """A trial's worker was lost; the trial is retried."""

    def ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""

    def end(self, outcome: Outcome, records: Sequence[TrialRecord]) -> None:
        """The sweep ended, with these trials."""


class TrialController:
    """Passes epochs to the study, stops trials, and informs listeners."""

    def __init__(
        self,
        study: Study,
        listeners: Sequence[Listener] = (),
        delete_checkpoints: Callable[[Config], None] = lambda _config: None,
        audit: float = 0.0,
    ) -> None:
        """Ready for trials.

        Args:
            study: suggests trials, stores what they report, decides about pruning.
            listeners: informed of every event.
            delete_checkpoints: removes those of a configuration that will not be resumed.
            audit: share of the trials that run to their end although the pruner would stop them; their facts
                hold `would_prune_at`, the number of epochs after which it would have.
        """
        self._study, self._listeners, self._audit = study, listeners, audit
        self._delete_checkpoints = delete_checkpoints
        self._running: dict[int, RunningTrial] = {}

    def next(self) -> TrialSpec | None:
        """The next trial to run; None if all have been started."""
        trial = self._study.ask(
            on_invalid=lambda record: self._inform(lambda listener: listener.ended(record))
        )
        if trial is not None:
            self._running[trial.number] = RunningTrial(trial.config)
            self._inform(lambda listener: listener.started(trial))
        return trial

    def report(self, number: int, update: EpochUpdate) -> bool:
        """Take one epoch of a trial. Returns whether the trial must stop."""
        trial = self._running.get(number)
        if trial is None:
            return True
        if update.failure is not None:
            return self._end(number, "failed", reason=update.failure)
        if update.epoch < len(trial.updates):
            return False  # a retried trial repeats the epochs that it reported before its worker was lost
        if not math.isfinite(update.val_auc):
            return self._end(number, "failed", reason=f"the score of epoch {update.epoch} is not a number")
        trial.updates.append(update)
        self._study.report(number, update.epoch, update.val_auc, update.scores)
        self._inform(lambda listener: listener.epoch(number, update))
        if update.result is not None:
            facts = dict(update.result)
            value = facts.pop("val_auc")
            if value is None:
                return self._end(number, "failed", reason="the final score is not a number")
            return self._end(number, "complete", value, **facts)
        if trial.would_prune_at is None and self._study.should_prune(number):
            epochs, space = update.epoch + 1, self._study.space
            if not is_audited(space.seed, number, self._audit):
                reason = f"{space.prune.rule} pruner after {epochs} epochs at mean validation AUC"
                return self._end(number, "pruned", reason=f"{reason} {update.val_auc:.3f}")
            trial.would_prune_at = epochs
        return False

    def lost(self, number: int, cause: str) -> None:
        """A trial's process ended, or its machine or storage failed; the trial is retried."""
        if number in self._running:
            self._running[number].losses.append(cause)
            self._inform(lambda listener: listener.lost(number, cause))

    def crashed(self, number: int, cause: str) -> None:
        """A trial was lost too often: it fails. The next run of the command queues it again."""
        if number in self._running:
            self._end(number, "failed", reason=cause, lost=True)

    def _end(self, number: int, state: State, value: float | None = None, **facts: Any) -> bool:
        trial = self._running[number]
        if state != "complete" and "lost" not in facts:
            # Before it is ended in the study: if the driver is killed in between, the trial runs again.
            self._delete_checkpoints(trial.config)
        facts |= {
            "epochs": len(trial.updates),
            "seconds": round(sum(update.seconds for update in trial.updates), 3),
        }
        if state != "complete":  # the ledger has no finished unit with these epochs
            facts["steps"] = [
                epoch_facts(
                    update.epoch, update.val_auc, update.folds or {}, update.losses or {}, update.seconds
                )
                for update in trial.updates
            ]
        if trial.would_prune_at is not None:
            facts["would_prune_at"] = trial.would_prune_at
        if trial.losses:
            facts["lost_workers"] = trial.losses
        record = self._study.tell(number, state, value, **facts)
        del self._running[number]
        self._inform(lambda listener: listener.ended(record))
        return True

    def _inform(self, call: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            call(listener)


@dataclass
class RunningTrial:
    """A running trial: its epochs, why it was retried, after how many epochs the pruner would stop it."""

    config: Config
    updates: list[EpochUpdate] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    would_prune_at: int | None = None
