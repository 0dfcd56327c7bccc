"""Train units on Ray, each by an actor: folds of a table, and lost folds of a sweep."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray

from cgn.config import Config
from cgn.errors import one_line
from cgn.results import FoldResult
from cgn_platform.run.site import TrainingSpec
from cgn_platform.run.worker import INFRASTRUCTURE, FoldActor

RETRIES = 3  # of a unit whose worker was lost


@dataclass(frozen=True)
class Job:
    """A unit to train: a fold of a configuration. Rows with equal configurations share it.

    Attributes:
        id: the unit's id.
        config: the configuration.
        number: the number of the split.
        owner: the row or trial that needs it first.
        attempt: how often the job was retried.
    """

    id: str
    config: Config
    number: int
    owner: str
    attempt: int = 0

    @property
    def name(self) -> str:
        """What is trained, for people."""
        return f"{self.owner}, seed {self.config.seed}, fold {self.number}"


class Screen(Protocol):
    """Shows the progress of units."""

    def begin(self, units: int, epochs: int) -> None:
        """Training starts; this many units and epochs are missing."""

    def epoch(self) -> None:
        """An epoch of some unit is finished."""

    def ended(self, job: str, epochs: int, failure: str) -> None:
        """A job of this name and number of epochs is finished, or has failed for this reason."""


class Training:
    """Trains jobs on actors. An actor has one job at a time, and trains one epoch per call."""

    def __init__(self, spec: TrainingSpec, screen: Screen) -> None:
        self._resources, self._shared, self._screen = spec.resources, ray.put(spec), screen
        self._queue: deque[Job] = deque()
        self._running: dict[Any, tuple[Any, Job]] = {}  # actor and job by pending call
        self._failed: dict[str, str] = {}

    def run(self, jobs: Sequence[Job], slots: int) -> dict[str, str]:
        """Train the jobs on this many actors. Returns why units failed, by unit id."""
        self._queue = deque(jobs)
        self._screen.begin(len(jobs), sum(job.config.epochs for job in jobs))
        try:
            for _ in range(slots):
                self._assign(self._actor())
            while self._running:
                ready, _ = ray.wait(list(self._running), timeout=1)
                for reference in ready:
                    self._answer(reference)
        finally:
            for actor, _ in self._running.values():
                ray.kill(actor)
        return self._failed

    def _actor(self) -> Any:
        resources = self._resources
        options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
        return ray.remote(FoldActor).options(**options).remote(self._shared)

    def _assign(self, actor: Any) -> None:
        """Give an actor the next job, or end the actor if there is none."""
        if not self._queue:
            ray.kill(actor)
            return
        job = self._queue.popleft()
        actor.begin.remote(job.config, job.number)
        self._advance(actor, job)

    def _advance(self, actor: Any, job: Job) -> None:
        self._running[actor.advance.remote(job.number)] = (actor, job)

    def _answer(self, reference: Any) -> None:
        """Handle a finished call: the next epoch, the next job, or an error."""
        actor, job = self._running.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayError as error:
            alive = isinstance(error, ray.exceptions.RayTaskError)
            self._error(job, error.cause if alive else error)
            self._assign(actor if alive else self._actor())
            return
        if isinstance(answer, FoldResult):
            self._screen.ended(job.name, job.config.epochs, "")
            self._assign(actor)
        else:
            self._screen.epoch()
            self._advance(actor, job)

    def _error(self, job: Job, cause: BaseException) -> None:
        """Queue the job again after an infrastructure error, at most `RETRIES` times; else it failed."""
        if isinstance(cause, INFRASTRUCTURE) and job.attempt < RETRIES:
            self._queue.append(replace(job, attempt=job.attempt + 1))
            return
        self._failed[job.id] = f"{type(cause).__name__}: {one_line(cause)}"
        self._screen.ended(job.name, job.config.epochs, self._failed[job.id])
