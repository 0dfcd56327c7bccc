"""Training before classification: the stages of a method, with checkpoints like those of epochs."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cgn.data.folds import healthy_films
from cgn.data.pairs import Split
from cgn.errors import DivergedError
from cgn.images import Images
from cgn.methods import Batch, Method, Stage
from cgn.results import CheckpointStore, FoldState
from cgn.streams import endless, stream_seed

TAIL = 10  # a stage's losses are means over its last tenth
CLASSIFICATION = "classification"  # what follows the last stage, in a checkpoint


@dataclass(frozen=True)
class Films:
    """What the stages of a fold read, on its device: images, or features of a frozen trunk.

    Attributes:
        target: of the training pairs alone.
        label: of these.
        healthy: films of women without a pair in the fold's validation and test parts; None if not needed.
    """

    target: Tensor
    label: Tensor
    healthy: Tensor | None


@dataclass
class Before:
    """What is kept of the stages of a fold.

    Attributes:
        losses: `STAGE.term`, means over the last tenth of each finished stage.
        seconds: of all stages.
        healthy_films: number that was used.
    """

    losses: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    healthy_films: int = 0


def run(
    network: Method,
    images: Images,
    split: Split,
    trunk: nn.Module | None,
    checkpoints: CheckpointStore | None,
    state: FoldState | None,
) -> Before:
    """Train all stages, or those that a checkpoint does not have. The network is left ready to classify.

    Args:
        network: as built.
        images: of all pairs.
        split: the fold.
        trunk: what the network has released, if its backbone is frozen.
        checkpoints: where to save; None if nothing is saved.
        state: the fold's last checkpoint; None to begin.

    Raises:
        ConfigError: the data has no healthy film for this fold.
        DivergedError: a loss is not finite.
    """
    if state is not None and state.epochs:
        finish(network)
        return Before(**state.facts.get("before", {}))
    if not network.stages:
        return Before()
    films = _films(network, images, split, trunk)
    before = Before(healthy_films=0 if films.healthy is None else len(films.healthy))
    if state is not None:
        before.losses, before.seconds = dict(state.facts["losses"]), state.facts["seconds"]
    names = [*(stage.name for stage in network.stages), CLASSIFICATION]
    begun = names.index(state.facts["stage"]) if state is not None else 0
    for stage in network.stages[:begun]:
        network.end_stage(stage)
    for number, stage in enumerate(network.stages[begun:], begun):
        resumed = state if number == begun else None
        finished = sum(earlier.steps for earlier in network.stages[:number])
        _Training(network, stage, films, split.fold, before, finished).run(checkpoints, resumed)
        network.end_stage(stage)
        if checkpoints:
            facts = {"stage": names[number + 1], "step": 0, "done": finished + stage.steps, "tail": {}}
            checkpoints.save(_state(network, None, before, facts))
    if state is not None and state.facts["stage"] == CLASSIFICATION:
        network.load_state_dict(state.part("model"))
    network.requires_grad_(True)
    return before


def finish(network: Method) -> None:
    """Give a network as built the children that it has after its stages."""
    for stage in network.stages:
        network.end_stage(stage)


def _films(network: Method, images: Images, split: Split, trunk: nn.Module | None) -> Films:
    features = network.level == "feature"
    source = images.through(trunk) if features and trunk is not None else images
    train = split.train
    if network.healthy == "benign":  # the other domain is then the malignant targets
        train = train[images.pairs.label[train] == 1]
    batch = source.batch(torch.as_tensor(train.copy()))
    if network.healthy is None:
        return Films(batch.target, batch.y, None)
    films = healthy_films(images.pairs, split, network.healthy)
    return Films(batch.target, batch.y, images.put_films(films, trunk if features else None))


@dataclass
class _Training:
    """One stage of one fold.

    Attributes:
        finished: steps of the stages before it.
    """

    network: Method
    stage: Stage
    films: Films
    fold: int
    before: Before
    finished: int

    def run(self, checkpoints: CheckpointStore | None, state: FoldState | None) -> None:
        """All steps, or those after a checkpoint of this stage."""
        stage, tail, step = self.stage, dict[str, list[float]](), 0
        self._freeze()
        optimizer = torch.optim.Adam(self.network.groups(stage.name), lr=self.network.config.learning_rate)
        rates = [group["lr"] for group in optimizer.param_groups]
        if state is not None:
            self.network.load_state_dict(state.part("model"))
            state.restore_moments(optimizer)
            step, tail = state.facts["step"], {name: list(own) for name, own in state.facts["tail"].items()}
        epoch = math.ceil(len(self.films.label) / self.network.config.batch_size)
        every = checkpoints.checkpoint_every * epoch if checkpoints else 0
        begin, seconds = time.perf_counter(), self.before.seconds
        while step < stage.steps:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self.network.rate(stage.name, step)
            optimizer.zero_grad(set_to_none=True)
            values = self._step(step)
            optimizer.step()
            step += 1
            if step > stage.steps - max(stage.steps // TAIL, 1):
                for name, value in values.items():
                    tail.setdefault(name, []).append(value)
            self.before.seconds = seconds + time.perf_counter() - begin
            if checkpoints and step % every == 0 and step < stage.steps:
                facts = {"stage": stage.name, "step": step, "done": self.finished + step, "tail": tail}
                checkpoints.save(_state(self.network, optimizer, self.before, facts))
        means = {f"{stage.name}.{name}": math.fsum(own) / len(own) for name, own in tail.items()}
        self.before.losses |= means

    def _freeze(self) -> None:
        self.network.eval()
        self.network.requires_grad_(False)
        for name in self.stage.trains:
            self.network.get_submodule(name).train().requires_grad_(True)

    def _step(self, step: int) -> dict[str, float]:
        """Gradients of one step; the means of its terms."""
        films, device = self.films, self.films.label.device
        lesions = self._rows("lesion", len(films.label), step)
        target = films.target[lesions]
        healthy = None
        if films.healthy is not None:
            healthy = films.healthy[self._rows("healthy", len(films.healthy), step)]
        batch = Batch(target, target, None, films.label[lesions], healthy=healthy)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self._seed("stage", step))
            values = self.network.stage_gradients(self.stage.name, batch, step)
        means = {name: float(value.double().mean()) for name, value in values.items()}
        if diverged := [name for name, value in means.items() if not math.isfinite(value)]:
            raise DivergedError(
                f"{self.stage.name}.{diverged[0]} must be finite but is {means[diverged[0]]} at step {step}: "
                "lower the learning rate of the stage"
            )
        return means

    def _rows(self, domain: str, count: int, step: int) -> Tensor:
        rows = endless(count, self.stage.images, step, lambda number: self._seed(domain, number))
        return rows.to(self.films.label.device)

    def _seed(self, purpose: str, number: int) -> int:
        return stream_seed(self.network.config.seed, self.fold, f"{purpose}/{self.stage.name}/{number}")


def _state(
    network: Method, optimizer: torch.optim.Optimizer | None, before: Before, facts: Mapping[str, Any]
) -> FoldState:
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= FoldState.moments_of(optimizer) if optimizer else {}
    return FoldState(tensors, {**facts, "losses": before.losses, "seconds": before.seconds})
