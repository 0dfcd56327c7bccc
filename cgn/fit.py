"""Training is an iterator of epochs (Sec. IV-A); cross-validation advances all folds in lockstep.

>>> for report in fit(config, pairs, split): ...      # ask for the next epoch, or do not
>>> result = last(fit(config, pairs, split))          # all epochs, then the test fold, once
"""

import hashlib
import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cgn import methods, metrics
from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError, DataError, DivergedError
from cgn.methods import Batch, Network, Prediction

EVALUATION_BATCH = 64  # pairs; results do not depend on it beyond rounding


@dataclass(frozen=True)
class EpochReport:
    """One epoch of one fold. `losses` are means over the training pairs, by term, with d_tc and d_rc."""

    fold: int
    epoch: int  # from 0
    val_auc: float
    losses: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Predictions:
    """A row a test pair. Boxes in pixels of the cached target; IoU is NaN where no lesion is marked."""

    index: NDArray[np.int64]  # into the pairs
    label: NDArray[np.int64]
    p_malignant: NDArray[np.float64]
    box: NDArray[np.float64]  # (n, 4)
    iou: NDArray[np.float64]


@dataclass(frozen=True)
class FoldResult:
    """The epoch with the best validation AUC, and what it does on the test fold (reading 19)."""

    fold: int
    best_epoch: int
    val_auc: float
    test_auc: float
    localization_error: float  # Table II: class and place; NaN where nothing is annotated
    localization_error_any_class: float  # the place alone
    predictions: Predictions
    seconds: float


@dataclass(frozen=True)
class CrossReport:
    """One epoch of all folds; `val_auc` is their mean at this epoch."""

    epoch: int
    val_auc: float
    folds: tuple[EpochReport, ...]


@dataclass(frozen=True)
class CrossResult:
    """All folds of one configuration; the means are over folds, as the paper prints them (reading 21)."""

    folds: tuple[FoldResult, ...]

    @property
    def val_auc(self) -> float:
        """Mean of the folds' best validation AUC: what a search may choose by."""
        return float(np.mean([fold.val_auc for fold in self.folds]))

    @property
    def test_auc(self) -> float:
        """Mean of the folds' test AUC: reported, never chosen by."""
        return float(np.mean([fold.test_auc for fold in self.folds]))

    @property
    def localization_error(self) -> float:
        """Mean of the folds' top-1 localisation error; NaN where a fold has no annotated pair."""
        return float(np.mean([fold.localization_error for fold in self.folds]))


def fit(
    config: Config, pairs: Pairs, split: Split, device: str = "cpu"
) -> Generator[EpochReport, None, FoldResult]:
    """Train one fold; yields a report an epoch and returns the test result of the best one.

    Equal arguments give equal bits on the CPU, whatever else runs between two epochs.

    Raises:
        ConfigError, WeightsError: before the first epoch.
        DataError: a validation or test fold that holds one class only.
        DivergedError: a loss or a score that is no number.
    """
    return _fit(config, _Images(pairs, device), split)


def cross_validate(
    config: Config, pairs: Pairs, splits: Sequence[Split], device: str = "cpu"
) -> Generator[CrossReport, None, CrossResult]:
    """Train all folds in lockstep, epoch by epoch, so that whoever stops a run looks at all of them.

    The numbers are those of `fit` on each fold after the other. Raises what `fit` raises.
    """
    images = _Images(pairs, device)
    running = [_fit(config, images, split) for split in splits]
    for epoch in range(config.epochs):
        reports = tuple(next(fold) for fold in running)
        yield CrossReport(epoch, float(np.mean([report.val_auc for report in reports])), reports)
    return CrossResult(tuple(last(fold) for fold in running))


Result = TypeVar("Result")


def last(run: Generator[object, None, Result]) -> Result:
    """Run an iterator of epochs to its end and give what it returns."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            return cast(Result, end.value)


class _Images:
    """The pairs on the device: as uint8, once for all folds, turned to floats a batch at a time."""

    def __init__(self, pairs: Pairs, device: str) -> None:
        self.pairs = pairs
        self.device = _device(device)
        self.target, self.reference = self._put(pairs.target), self._put(pairs.reference)
        self.counterfactual = None if pairs.counterfactual is None else self._put(pairs.counterfactual)
        self.label = self._put(pairs.label)

    def batch(self, index: Tensor) -> Batch:
        index = index.to(self.device, non_blocking=True)
        truth = None if self.counterfactual is None else self._float(self.counterfactual[index])
        return Batch(
            self._float(self.target[index]), self._float(self.reference[index]), truth, self.label[index]
        )

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.tensor(array)
        return tensor.pin_memory().to(self.device) if self.device.type == "cuda" else tensor

    @staticmethod
    def _float(pixels: Tensor) -> Tensor:
        return pixels.unsqueeze(1).float().div_(255)


def _fit(config: Config, images: _Images, split: Split) -> Generator[EpochReport, None, FoldResult]:
    start = time.perf_counter()
    labels = images.pairs.label
    for part, index in (("validation", split.val), ("test", split.test)):
        if len(np.unique(labels[index])) != 2:
            raise DataError(
                f"fold {split.fold}: the {part} pairs must hold both classes but hold one: make fewer folds"
            )
    network, optimizer = _start(config, images.device, _seed(config.seed, split.fold, "weights"))
    order = torch.Generator().manual_seed(_seed(config.seed, split.fold, "order"))
    train = torch.as_tensor(split.train.copy())
    best_auc, best_epoch, best_state = -math.inf, -1, {}

    for epoch in range(config.epochs):
        begin = time.perf_counter()
        losses = _train_epoch(network, optimizer, images, train, order, config.batch_size)
        val_auc = metrics.auc(labels[split.val], _scores(network, images, split.val, epoch))
        if val_auc > best_auc:
            best_auc, best_epoch = val_auc, epoch
            best_state = {key: value.clone() for key, value in network.state_dict().items()}
        yield EpochReport(split.fold, epoch, val_auc, losses, time.perf_counter() - begin)

    network.load_state_dict(best_state)
    predictions, right = _test(network, images, split.test)
    return FoldResult(
        fold=split.fold,
        best_epoch=best_epoch,
        val_auc=best_auc,
        test_auc=metrics.auc(predictions.label, predictions.p_malignant),
        localization_error=metrics.top1_localization_error(predictions.iou, right),
        localization_error_any_class=metrics.top1_localization_error(predictions.iou),
        predictions=predictions,
        seconds=time.perf_counter() - start,
    )


def _start(config: Config, device: torch.device, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = methods.build(config).to(device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        network = network.to(memory_format=torch.channels_last)
    return network, torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=on_gpu)


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: _Images,
    train: Tensor,
    order: torch.Generator,
    batch_size: int,
) -> dict[str, float]:
    network.train()
    trained = cast(Network, network)
    sums: dict[str, Tensor] = {}
    for index in torch.split(train[torch.randperm(len(train), generator=order)], batch_size):
        optimizer.zero_grad(set_to_none=True)
        for name, value in trained.gradients(images.batch(index)).items():
            sums[name] = sums.get(name, 0.0) + value.double().sum()
        optimizer.step()
    means = {name: float(total) / len(train) for name, total in sums.items()}
    if broken := [name for name, value in means.items() if not math.isfinite(value)]:
        raise DivergedError(
            f"{broken[0]} must stay finite but is {means[broken[0]]}: lower the learning rate or the weights"
        )
    return means


def _scores(network: nn.Module, images: _Images, index: NDArray[np.int64], epoch: int) -> NDArray[np.float64]:
    scores = _predict(network, images, index).p_malignant.double().cpu().numpy()
    if not np.isfinite(scores).all():
        raise DivergedError(
            f"validation scores must be finite but some of epoch {epoch} are not: lower the learning rate"
        )
    return cast("NDArray[np.float64]", scores)


def _predict(network: nn.Module, images: _Images, index: NDArray[np.int64]) -> Prediction:
    network.eval()
    chunks = torch.split(torch.as_tensor(index.copy()), EVALUATION_BATCH)
    parts = [cast(Network, network).predict(images.batch(chunk)) for chunk in chunks]
    return Prediction(torch.cat([p.p_malignant for p in parts]), torch.cat([p.cam for p in parts]))


def _test(
    network: nn.Module, images: _Images, index: NDArray[np.int64]
) -> tuple[Predictions, NDArray[np.bool_]]:
    """Predictions of the test pairs, and whether each one's class was right."""
    p_malignant, cam = _predict(network, images, index)
    pairs, scores = images.pairs, p_malignant.double().cpu().numpy()
    boxes = [metrics.box_from_cam(map_, pairs.size) for map_ in cam.cpu().numpy()]
    ious = [metrics.best_iou(box, pairs.boxes[i]) for box, i in zip(boxes, index, strict=True)]
    label = pairs.label[index]
    predictions = Predictions(index, label, scores, np.array(boxes), np.array(ious))
    return predictions, (scores > 0.5) == (label == 1)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda or cuda:N but got {name!r}") from None
    count = torch.cuda.device_count() if device.type == "cuda" and torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name} must be there but this machine has {count} CUDA devices: take cpu")
    return device


def _seed(seed: int, fold: int, purpose: str) -> int:
    """Independent streams for each fold and purpose, whatever the order they are asked in."""
    digest = hashlib.sha256(f"{seed}/{fold}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


__all__ = [
    "CrossReport",
    "CrossResult",
    "EpochReport",
    "FoldResult",
    "Predictions",
    "cross_validate",
    "fit",
    "last",
]
