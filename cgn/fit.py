"""Training is an iterator of epochs (Sec. IV-A); cross-validation advances all folds in lockstep.

>>> for report in fit(config, pairs, split): ...      # break to stop training
>>> result = last(fit(config, pairs, split))          # all epochs, then the test fold, once
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgn import methods, metrics, stages
from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import DataError, DivergedError
from cgn.images import EVALUATION_BATCH, Images, find_device, inputs_of
from cgn.methods import BatchPrediction, Method, Solving
from cgn.results import (
    CheckpointStore,
    CrossReport,
    CrossResult,
    CrossRun,
    EpochReport,
    FoldResult,
    FoldRun,
    FoldState,
    Predictions,
    last,
    lockstep,
)
from cgn.streams import stream_seed


def fit(
    config: Config,
    pairs: "Pairs | Images",
    split: Split,
    device: str = "cpu",
    checkpoints: CheckpointStore | None = None,
) -> FoldRun:
    """Train one fold; yields a report after each epoch and returns the test result of the best epoch.

    On the CPU, equal arguments give results that are equal to the bit, whatever runs between two epochs. This
    includes a fold that is resumed from its last checkpoint: the reports of earlier epochs are then yielded
    again without training.

    Args:
        config: what is trained.
        pairs: the data; give `Images` to share it between folds.
        split: training, validation and test pairs.
        device: cpu, cuda or cuda:1; ignored for `Images`.
        checkpoints: where the fold is resumed from and saved; None to start from the beginning.

    Raises:
        ConfigError, WeightsError: before the first epoch.
        DataError: a validation or test fold has one class only.
        DivergedError: a loss or a score is not finite.
    """
    images = pairs if isinstance(pairs, Images) else Images(pairs, device)
    return _fit(config, images, split, checkpoints)


def cross_validate(config: Config, pairs: Pairs, splits: Sequence[Split], device: str = "cpu") -> CrossRun:
    """Train all folds in lockstep. The results are those of `fit` on one fold after the other.

    Raises what `fit` raises.
    """
    images = Images(pairs, device)
    return lockstep([fit(config, images, split) for split in splits], config.epochs)


def network_of(config: Config, state: Mapping[str, Tensor], device: str = "cpu") -> Method:
    """The network of a finished fold, from its `FoldResult.state`, ready to predict."""
    network = methods.build(config.edit(backbone_weights="none"))
    stages.finish(network)
    network.load_state_dict(dict(state))
    network.to(find_device(device)).eval()
    return network


@dataclass
class _Fold:
    """What changes while a fold trains, and its images; `trunk` holds the tensors that do not change."""

    number: int
    network: Method
    images: Images
    trunk: dict[str, Tensor]
    optimizer: torch.optim.Optimizer | None  # None if nothing is learned in steps
    order: torch.Generator
    before: stages.Before
    reports: list[EpochReport]
    best_epoch: int
    best: dict[str, Tensor]

    @property
    def best_auc(self) -> float:
        return self.reports[self.best_epoch].val_auc if self.reports else -math.inf

    def state(self) -> FoldState:
        tensors = {f"model.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= FoldState.moments_of(self.optimizer) if self.optimizer else {}
        reports = [asdict(report) | {"val_scores": report.val_scores.tolist()} for report in self.reports]
        facts = {"best_epoch": self.best_epoch, "reports": reports, "before": asdict(self.before)}
        return FoldState(tensors | {"order": self.order.get_state()}, facts)

    def restore(self, state: FoldState) -> None:
        if self.optimizer:
            state.restore_moments(self.optimizer)
        self.order.set_state(state.tensors["order"])
        self.best = {name: tensor.to(self.images.device) for name, tensor in state.part("best").items()}
        self.best_epoch = state.facts["best_epoch"]
        self.reports = [
            EpochReport(**{**report, "val_scores": np.array(report["val_scores"])})
            for report in state.facts["reports"]
        ]


def _fit(config: Config, images: Images, split: Split, checkpoints: CheckpointStore | None) -> FoldRun:
    _check(images.pairs.label, split)
    fold = _start(config, images, split, checkpoints)
    yield from fold.reports

    train = torch.as_tensor(split.train.copy())
    for epoch in range(len(fold.reports), config.epochs):
        begin = time.perf_counter()
        losses = _train_epoch(fold, train, epoch) | (fold.before.losses if epoch == 0 else {})
        scores = _scores(fold, split.val, epoch)
        val_auc = metrics.auc(images.pairs.label[split.val], scores)
        if val_auc > fold.best_auc:
            fold.best_epoch = epoch
            fold.best = {key: value.clone() for key, value in fold.network.state_dict().items()}
        fold.reports.append(
            EpochReport(split.fold, epoch, val_auc, losses, time.perf_counter() - begin, scores)
        )
        finished = epoch + 1
        if checkpoints and finished % checkpoints.checkpoint_every == 0 and finished < config.epochs:
            checkpoints.save(fold.state())
        yield fold.reports[-1]

    begin = time.perf_counter()
    fold.network.load_state_dict(fold.best)
    predictions, correct = _test(fold, split.test)
    return FoldResult(
        fold=split.fold,
        best_epoch=fold.best_epoch,
        val_auc=fold.best_auc,
        test_auc=metrics.auc(predictions.label, predictions.p_malignant),
        localization_error=metrics.top1_localization_error(predictions.iou, correct),
        localization_error_any_class=metrics.top1_localization_error(predictions.iou),
        predictions=predictions,
        seconds=sum(report.seconds for report in fold.reports) + time.perf_counter() - begin,
        state=fold.trunk | fold.best,
        before_seconds=fold.before.seconds,
        healthy_films=fold.before.healthy_films,
        made_difference=fold.images.made_difference,
    )


def _check(label: NDArray[np.int64], split: Split) -> None:
    for part, index in (("validation", split.val), ("test", split.test)):
        if len(np.unique(label[index])) != 2:
            raise DataError(
                f"fold {split.fold}: the {part} pairs must have both classes but have one: use fewer folds"
            )


def _start(config: Config, images: Images, split: Split, checkpoints: CheckpointStore | None) -> _Fold:
    """The fold before its first epoch, or after the last one in its checkpoint; all stages are finished."""
    device, number = images.device, split.fold
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, number, "weights"))
        network = methods.build(config)
    network.to(device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        network.to(memory_format=torch.channels_last)
    frozen, trunk = None, {}
    if config.frozen_backbone:
        prefix, frozen = network.release_trunk()
        trunk = {f"{prefix}{name}": tensor for name, tensor in frozen.state_dict().items()}
    state = checkpoints.load() if checkpoints else None
    before = stages.run(network, images, split, frozen, checkpoints, state)
    in_epochs = state is not None and state.epochs > 0
    if state is not None and in_epochs:
        network.load_state_dict(state.part("model"))
    groups = network.groups()
    optimizer = torch.optim.Adam(groups, lr=config.learning_rate, fused=on_gpu) if groups else None
    order = torch.Generator().manual_seed(stream_seed(config.seed, number, "order"))
    inputs = inputs_of(network, images, frozen)
    fold = _Fold(number, network, inputs, trunk, optimizer, order, before, [], best_epoch=-1, best={})
    if state is not None and in_epochs:
        fold.restore(state)
    return fold


def _train_epoch(fold: _Fold, train: Tensor, epoch: int) -> dict[str, float]:
    """One pass over the training pairs; means of the terms."""
    fold.network.train()
    sums: dict[str, Tensor] = {}
    for values in _solve(fold, train) if isinstance(fold.network, Solving) else _steps(fold, train, epoch):
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.double().sum()
    means = {name: float(total) / len(train) for name, total in sums.items()}
    if diverged := [name for name, value in means.items() if not math.isfinite(value)]:
        raise DivergedError(
            f"{diverged[0]} must stay finite but is {means[diverged[0]]}: "
            "lower the learning rate or the loss weights"
        )
    return means


def _steps(fold: _Fold, train: Tensor, epoch: int) -> Iterator[dict[str, Tensor]]:
    """One step of Adam per batch; the values of its terms.

    The global random generators are seeded for each step and restored after it. A resumed fold therefore
    draws the same numbers, and folds in lockstep do not influence each other.
    """
    config, network, optimizer = fold.network.config, fold.network, fold.optimizer
    assert optimizer is not None  # noqa: S101  (only a method that is solved has none)
    devices = [fold.images.device] if fold.images.device.type == "cuda" else []
    batches = torch.split(train[torch.randperm(len(train), generator=fold.order)], config.batch_size)
    for number, index in enumerate(batches):
        optimizer.zero_grad(set_to_none=True)
        batch = fold.images.batch(index, other=network.needs_other)
        with torch.random.fork_rng(devices):
            torch.manual_seed(stream_seed(config.seed, fold.number, f"step/{epoch}/{number}"))
            values = network.gradients(batch)
        optimizer.step()
        yield values


def _solve(fold: _Fold, train: Tensor) -> Iterator[dict[str, Tensor]]:
    """The solution on all training pairs."""
    network = fold.network
    assert isinstance(network, Solving)  # noqa: S101  (tells its type)
    draw = torch.Generator().manual_seed(stream_seed(network.config.seed, fold.number, "solve"))
    yield network.solve(fold.images.batch(train, other=network.needs_other), draw)


def _scores(fold: _Fold, index: NDArray[np.int64], epoch: int) -> NDArray[np.float64]:
    scores = predict(fold.network, fold.images, index).p_malignant.double().cpu().numpy()
    if not np.isfinite(scores).all():
        raise DivergedError(
            f"validation scores must be finite but some of epoch {epoch} are not: lower the learning rate"
        )
    return cast("NDArray[np.float64]", scores)


def predict(network: Method, images: Images, index: NDArray[np.int64]) -> BatchPrediction:
    """Predictions for the pairs at these rows of `images`; leaves the network in evaluation mode."""
    network.eval()
    chunks = torch.split(torch.as_tensor(index.copy()), EVALUATION_BATCH)
    parts = [network.predict(images.batch(chunk, other=network.needs_other)) for chunk in chunks]
    return BatchPrediction(torch.cat([p.p_malignant for p in parts]), torch.cat([p.cam for p in parts]))


def _test(fold: _Fold, index: NDArray[np.int64]) -> tuple[Predictions, NDArray[np.bool_]]:
    """Predictions for the test pairs, and whether the class of each is correct."""
    p_malignant, cam = predict(fold.network, fold.images, index)
    pairs, scores = fold.images.pairs, p_malignant.double().cpu().numpy()
    boxes = [metrics.box_from_cam(map_, pairs.size) for map_ in cam.cpu().numpy()]
    ious = [metrics.best_iou(box, pairs.boxes[i]) for box, i in zip(boxes, index, strict=True)]
    label = pairs.label[index]
    correct = (scores > 0.5) == (label == 1)
    localized = correct & (np.array(ious) >= metrics.IOU_THRESHOLD)
    return Predictions(index, label, scores, np.array(boxes), np.array(ious), localized), correct


__all__ = [
    "CrossReport",
    "CrossResult",
    "EpochReport",
    "FoldResult",
    "Predictions",
    "cross_validate",
    "fit",
    "last",
    "lockstep",
    "network_of",
    "predict",
]
