"""Training is an iterator of epochs (Sec. IV-A); cross-validation advances all folds in lockstep.

>>> for report in fit(config, pairs, split): ...      # break to stop training
>>> result = last(fit(config, pairs, split))          # all epochs, then the test fold, once
"""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cgn import methods, metrics
from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError, DataError, DivergedError
from cgn.methods import Batch, BatchPrediction, Method, Solving
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

EVALUATION_BATCH = 64  # pairs; changes results only by rounding


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
    network.load_state_dict(dict(state))
    network.to(_device(device)).eval()
    return network


class Images:
    """Pairs on a device: stored as uint8, once for all folds, and converted to floats batch by batch."""

    def __init__(self, pairs: Pairs, device: str = "cpu") -> None:
        self.pairs = pairs
        self.device = _device(device)
        self.target, self.reference = self._put(pairs.target), self._put(pairs.reference)
        self.counterfactual = None if pairs.counterfactual is None else self._put(pairs.counterfactual)
        self.label = self._put(pairs.label)
        companion = pairs.companion
        self.other = self._put(np.where(companion < 0, np.arange(len(pairs)), companion))
        self._frozen: dict[str, Images] = {}

    def batch(self, index: Tensor, *, other: bool = False) -> Batch:
        """The pairs at these rows, as a network reads them; `other` adds the other view of each."""
        index = index.to(self.device, non_blocking=True)
        truth = None if self.counterfactual is None else self._float(self.counterfactual[index])
        batch = Batch(
            self._float(self.target[index]), self._float(self.reference[index]), truth, self.label[index]
        )
        if not other:
            return batch
        views = self.other[index]
        return batch._replace(
            other_target=self._float(self.target[views]), other_reference=self._float(self.reference[views])
        )

    def through(self, trunk: nn.Module, name: str = "") -> "Images":
        """Features of the same pairs by a frozen trunk, computed once per name (the weights' hash)."""
        name = name or weights_hash(trunk)
        if name not in self._frozen:
            self._frozen[name] = _Features(self, trunk.eval())
        return self._frozen[name]

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.tensor(array)
        return tensor.pin_memory().to(self.device) if self.device.type == "cuda" else tensor

    def _float(self, pixels: Tensor) -> Tensor:
        return pixels.unsqueeze(1).float().div_(255)


class _Features(Images):
    """Features of a trunk in place of images."""

    def __init__(self, images: Images, trunk: nn.Module) -> None:
        @torch.no_grad()
        def features(pixels: Tensor) -> Tensor:
            chunks = torch.split(pixels, EVALUATION_BATCH)
            return torch.cat([trunk(images._float(chunk)) for chunk in chunks])

        self.pairs, self.device = images.pairs, images.device
        self.label, self.other = images.label, images.other
        self.target, self.reference = features(images.target), features(images.reference)
        self.counterfactual = None if images.counterfactual is None else features(images.counterfactual)

    def _float(self, features: Tensor) -> Tensor:
        return features


def weights_hash(trunk: nn.Module) -> str:
    """SHA-256 of a network's tensors, in hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in trunk.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class _Fold:
    """What changes while a fold trains, and its images; `trunk` holds the tensors that do not change."""

    number: int
    network: Method
    images: Images
    trunk: dict[str, Tensor]
    optimizer: torch.optim.Optimizer | None  # None if nothing is learned in steps
    order: torch.Generator
    reports: list[EpochReport]
    best_epoch: int
    best: dict[str, Tensor]

    @property
    def best_auc(self) -> float:
        return self.reports[self.best_epoch].val_auc if self.reports else -math.inf

    def state(self) -> FoldState:
        moments = self.optimizer.state_dict()["state"] if self.optimizer else {}
        tensors = {f"model.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"adam.{i}.{name}": value for i, own in moments.items() for name, value in own.items()}
        reports = [asdict(report) | {"val_scores": report.val_scores.tolist()} for report in self.reports]
        facts = {"best_epoch": self.best_epoch, "reports": reports}
        return FoldState(tensors | {"order": self.order.get_state()}, facts)

    def restore(self, state: FoldState) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "adam": {}}
        for name, tensor in state.tensors.items():
            part, _, rest = name.partition(".")
            if part in parts:
                parts[part][rest] = tensor
        self.network.load_state_dict(parts["model"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["adam"].items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = tensor
        if self.optimizer:
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.order.set_state(state.tensors["order"])
        self.best = {name: tensor.to(self.images.device) for name, tensor in parts["best"].items()}
        self.best_epoch = state.facts["best_epoch"]
        self.reports = [
            EpochReport(**{**report, "val_scores": np.array(report["val_scores"])})
            for report in state.facts["reports"]
        ]


def _fit(config: Config, images: Images, split: Split, checkpoints: CheckpointStore | None) -> FoldRun:
    _check(images.pairs.label, split)
    fold = _start(config, images, split.fold)
    state = checkpoints.load() if checkpoints else None
    if state is not None:
        fold.restore(state)
    yield from fold.reports

    train = torch.as_tensor(split.train.copy())
    for epoch in range(len(fold.reports), config.epochs):
        begin = time.perf_counter()
        losses = _train_epoch(fold, train, epoch)
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
    )


def _check(label: NDArray[np.int64], split: Split) -> None:
    for part, index in (("validation", split.val), ("test", split.test)):
        if len(np.unique(label[index])) != 2:
            raise DataError(
                f"fold {split.fold}: the {part} pairs must have both classes but have one: use fewer folds"
            )


def _start(config: Config, images: Images, number: int) -> _Fold:
    device = images.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, number, "weights"))
        network = methods.build(config)
    network.to(device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        network.to(memory_format=torch.channels_last)
    trunk: dict[str, Tensor] = {}
    if config.frozen_backbone:
        prefix, frozen = network.release_trunk()
        images = images.through(frozen)
        trunk = {f"{prefix}{name}": tensor for name, tensor in frozen.state_dict().items()}
    groups = network.groups()
    optimizer = torch.optim.Adam(groups, lr=config.learning_rate, fused=on_gpu) if groups else None
    order = torch.Generator().manual_seed(stream_seed(config.seed, number, "order"))
    return _Fold(number, network, images, trunk, optimizer, order, reports=[], best_epoch=-1, best={})


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


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda or cuda:N but got {name!r}") from None
    count = torch.cuda.device_count() if device.type == "cuda" and torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name} must exist but this machine has {count} CUDA devices: use cpu")
    return device


def stream_seed(seed: int, fold: int, purpose: str) -> int:
    """Seed of a random stream for one fold and purpose ("weights" or "order"), independent of the others."""
    digest = hashlib.sha256(f"{seed}/{fold}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


__all__ = [
    "CrossReport",
    "CrossResult",
    "EpochReport",
    "FoldResult",
    "Images",
    "Predictions",
    "cross_validate",
    "fit",
    "last",
    "lockstep",
    "network_of",
    "predict",
    "stream_seed",
    "weights_hash",
]
