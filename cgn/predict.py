"""What is served: the networks of all folds together, preprocessing included.

    model.json              format, configuration, preparation, what it was trained on; sha256 of the others
    fold_0.safetensors ...  a network each
    probe.safetensors       a few drawn pairs, as 8-bit images: nobody's films go with a model
    probe.json              what this ensemble said of them: a reload can be compared to the bit

The folder is written under a temporary name and renamed. A pair goes the way of the cache: the same
functions prepare it, and `cgn.fit.predict` judges it; only its films come from somebody.
"""

import hashlib
import json
import math
import platform
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from cgn import files, methods
from cgn.config import Config
from cgn.data.boxes import Box
from cgn.data.breast import Preprocessing
from cgn.data.datasets import phantom
from cgn.data.pairs import Pairs
from cgn.data.preparation import PreparedPair, prepare_pair
from cgn.data.reading.dicom import DicomOptions
from cgn.data.reading.films import FilmPair, OpenedPair, open_pair
from cgn.data.reading.workers import Pool
from cgn.data.records import Rejection
from cgn.errors import ConfigError, ModelError
from cgn.fit import Images, name_of, network_of, predict
from cgn.methods import Counterfactual, Network
from cgn.metrics import box_from_cam

FORMAT = 1
PROBES, PROBE_SEED = 4, 2021
"""Phantoms that a model keeps to be compared with itself, from a seed that no cache is likely to have."""

MARGIN = 1.25
"""How far beyond what was trained on, as a factor, a breast's size or brightness goes without a warning."""

Pixels = NDArray[np.uint8]  # (n, size, size)
NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)


# ---------------------------------------------------------------------------------------- what is said


@dataclass(frozen=True)
class Prediction:
    """What the ensemble says of a pair.

    Attributes:
        pair_id: as it was asked for.
        p_malignant: mean over the folds, in [0, 1]; NaN where the films cannot be used.
        fold_p: of each fold.
        spread: standard deviation of these.
        box: where it sees the class it predicts, pixels of the target's source image (Sec. IV-E); empty
            where there is nothing to point at.
        cam: `(h, w)` map of that class, mean over the folds that predict it; chest wall on the left.
        warnings: where the input lies outside of what was trained on: `code: sentence`.
        refused: why the films cannot be used; None where they can.
        seen: the films as they were prepared; None where they were refused.
    """

    pair_id: str
    p_malignant: float
    fold_p: tuple[float, ...]
    spread: float
    box: Box
    cam: NDArray[np.float32] = field(repr=False)
    warnings: tuple[str, ...]
    refused: Rejection | None = None
    seen: OpenedPair | None = field(default=None, repr=False)

    def facts(self) -> dict[str, Any]:
        """What is said, as plain JSON."""
        told = ("p_malignant", "spread", "fold_p", "box", "warnings")
        return {name: getattr(self, name) for name in told}


class Probe(NamedTuple):
    """Prepared pairs, `target` and `reference` `(n, size, size)`, and what was said of them."""

    pairs: Mapping[str, Pixels]
    said: Mapping[str, Any]


@dataclass(frozen=True)
class Judgement:
    """Of n prepared pairs: probabilities `(k, n)` of the folds, and activation maps `(n, h, w)`."""

    fold_p: NDArray[np.float64]
    cam: NDArray[np.float32]

    @property
    def p_malignant(self) -> NDArray[np.float64]:
        """Mean over the folds, `(n,)`."""
        return np.asarray(self.fold_p.mean(0))


# -------------------------------------------------------------------------------------------- ensemble


class Ensemble:
    """The networks of all folds of one configuration. One thread at a time; others wait.

    Args:
        facts: `model.json`.
        states: each fold's tensors, in the order of `facts["folds"]`.
        device: cpu, cuda or cuda:1.
        processes: that open films; one a core where not given. They start with the first pair and end
            with `close`.
    """

    def __init__(
        self,
        facts: Mapping[str, Any],
        states: Sequence[Mapping[str, Tensor]],
        *,
        device: str = "cpu",
        processes: int | None = None,
    ) -> None:
        self.facts, self.device = facts, device
        self.config = Config.of(facts["config"])
        preparation = dict(facts["preparation"])
        options = DicomOptions(range=preparation.pop("range", "stored"))
        self.preprocessing = Preprocessing(**preparation)
        self.networks = [network_of(self.config, state, device) for state in states]
        self._trunks: list[tuple[nn.Module, str]] = []
        if self.config.frozen_backbone:  # as in training: features once, and once for all equal trunks
            released = [cast(Network, network).release_trunk()[1] for network in self.networks]
            self._trunks = [(trunk, name_of(trunk)) for trunk in released]
        self._films = Pool(partial(open_pair, preprocessing=self.preprocessing, options=options), processes)
        self._turn = threading.Lock()
        self.probe: Probe | None = None
        weakref.finalize(self, self._films.close)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", processes: int | None = None) -> Self:
        """The ensemble of a folder; every file of it is compared with its sha256.

        Raises:
            ModelError: there is none, or it is damaged; the message names the file.
        """
        facts = read_facts(folder)
        content = {name: _read(folder, name, sha256) for name, sha256 in facts["files"].items()}
        states = [load_tensors(content[_of_fold(fold)]) for fold in facts["folds"]]
        ensemble = cls(facts, states, device=device, processes=processes)
        ensemble.probe = Probe(load_arrays(content[PROBE_PAIRS]), json.loads(content[PROBE_SAID]))
        return ensemble

    def close(self) -> None:
        """End the processes that open films."""
        self._films.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict(self, pairs: Sequence[FilmPair]) -> list[Prediction]:
        """Each pair of films, in their order. Those that cannot be used are refused, one by one."""
        with self._turn, tempfile.TemporaryDirectory(prefix="cgn-") as held:
            opened = dict(self._films.run(list(_on_disk(pairs, Path(held)))))
            usable = [number for number in range(len(pairs)) if isinstance(opened[number], OpenedPair)]
            judgement = self.judge(_prepared([opened[number] for number in usable])) if usable else None
        told = []
        for number, pair in enumerate(pairs):
            outcome = opened[number]
            if judgement is None or isinstance(outcome, Rejection):
                told.append(_refused(pair, outcome, len(self.networks)))
            else:
                told.append(self._told(pair, outcome, judgement, usable.index(number)))
        return told

    def judge(self, pairs: Pairs) -> Judgement:
        """What the folds say of pairs that are prepared, as a cache has them."""
        images, index = Images(pairs, self.device), np.arange(len(pairs))
        said = [
            predict(network, seen, index)
            for network, seen in zip(self.networks, self._seen(images), strict=True)
        ]
        fold_p = np.stack([each.p_malignant.double().cpu().numpy() for each in said])
        cams = np.stack([each.cam.float().cpu().numpy() for each in said])
        agrees = (fold_p > 0.5) == (fold_p.mean(0) > 0.5)
        weight = (agrees / agrees.sum(0))[:, :, None, None].astype(np.float32)
        return Judgement(fold_p, np.asarray((cams * weight).sum(0)))

    def places(self, judgement: Judgement) -> list[Box]:
        """Sec. IV-E. Where each pair's class is seen, in pixels of the prepared target."""
        return [box_from_cam(cam, self.preprocessing.size) for cam in judgement.cam]

    def counterfactual(self, prediction: Prediction) -> dict[str, NDArray[np.float32]]:
        """Sec. IV-F. The strongest channel of H_T, H_R and H_C, `(h, w)` each, as a mean over the folds.

        Nothing where this configuration makes no counterfactual, or the films were refused.
        """
        if prediction.seen is None or not self._generates:
            return {}
        images = Images(_prepared([prediction.seen]), self.device)
        index = torch.zeros(1, dtype=torch.int64)
        made = [
            cast(Counterfactual, network).features(seen.batch(index))
            for network, seen in zip(self.networks, self._seen(images), strict=True)
        ]
        by_name = {"H_T": [m.target for m in made], "H_R": [m.reference for m in made]}
        by_name |= {"H_C": [m.counterfactual for m in made]}
        return {
            name: np.mean([h[0].amax(0).float().cpu().numpy() for h in maps], axis=0)
            for name, maps in by_name.items()
        }

    def check(self) -> float:
        """How far this ensemble is, on the pairs it was kept with, from what it said when it was written.

        The largest difference of a fold's probability, or of a box in pixels: 0 to the bit on the same kind
        of machine, and small on another.

        Raises:
            ModelError: it was not loaded from a folder.
        """
        if self.probe is None:
            raise ModelError("a model must be loaded from its folder to be compared with what it said there")
        pairs, said = self.probe
        judgement = self.judge(_in_memory(pairs["target"], pairs["reference"]))
        told = [np.array(said["fold_p"]), np.array(said["boxes"])]
        found = [judgement.fold_p, np.array(self.places(judgement))]
        return float(max(np.abs(a - b).max() for a, b in zip(told, found, strict=True)))

    @property
    def _generates(self) -> bool:
        return all(isinstance(network, Counterfactual) and network.generates for network in self.networks)

    def _seen(self, images: Images) -> list[Images]:
        """The images as each fold's network takes them."""
        if not self._trunks:
            return [images] * len(self.networks)
        return [images.through(trunk, name) for trunk, name in self._trunks]

    def _told(self, pair: FilmPair, seen: OpenedPair, judgement: Judgement, row: int) -> Prediction:
        fold_p, cam = judgement.fold_p[:, row], judgement.cam[row]
        place = box_from_cam(cam, self.preprocessing.size)
        return Prediction(
            pair_id=pair.pair_id,
            p_malignant=float(judgement.p_malignant[row]),
            fold_p=tuple(fold_p.tolist()),
            spread=float(fold_p.std()),
            box=NOWHERE if place == NOWHERE else seen.target.to_source(place),
            cam=cam,
            warnings=tuple(_doubts(pair, seen, self.facts["trained_on"])),
            seen=seen,
        )


# -------------------------------------------------------------------------------------------- warnings


def _doubts(pair: FilmPair, seen: OpenedPair, trained: Mapping[str, Any]) -> Iterator[str]:
    """Where a pair lies outside of what the ensemble was trained on."""
    given = {"target": pair.target, "reference": pair.reference}
    for role, film in seen._asdict().items():
        for what, value in _measures(film.prepared.pixels, film.prepared.crop).items():
            low, high = trained["ranges"][what]
            if not low / MARGIN <= value <= high * MARGIN:
                yield f"{what}: {value:.0f} in the {role}, {low:.0f} to {high:.0f} in training"
        if film.side and given[role].side and film.side != given[role].side:
            yield f"laterality: {given[role].side} was said of the {role} but its tags say {film.side}"
        view = film.view or given[role].view
        if view and view not in trained["views"]:
            yield f"view: {view} in the {role}, {', '.join(trained['views'])} in training"
    target, reference = seen
    sides = target.side or pair.target.side, reference.side or pair.reference.side
    if sides[0] and sides[0] == sides[1]:
        yield f"same_side: both films are of side {sides[0]} but the reference must be of the other breast"
    elif target.chest_wall == reference.chest_wall and not (target.side and reference.side):
        yield (
            f"same_side: both films have the chest wall on their {target.chest_wall} "
            "but the reference must be of the other breast"
        )
    if target.view and reference.view and target.view != reference.view:
        yield f"view: {target.view} in the target but {reference.view} in the reference"


def _measures(pixels: NDArray[np.uint8], crop: Sequence[int]) -> dict[str, float]:
    """What may lie outside of the training: a breast's size in pixels of the source image, and its mean."""
    return {"width": float(crop[2]), "height": float(crop[3]), "brightness": float(pixels.mean())}


def _ranges(pairs: Pairs) -> dict[str, tuple[float, float]]:
    films = [*zip(pairs.target, pairs.target_crop, strict=True)]
    films += zip(pairs.reference, pairs.reference_crop, strict=True)
    seen = [_measures(pixels, crop.tolist()) for pixels, crop in films]
    return {what: (min(s[what] for s in seen), max(s[what] for s in seen)) for what in seen[0]}


def _refused(pair: FilmPair, why: Rejection, folds: int) -> Prediction:
    return Prediction(
        pair_id=pair.pair_id,
        p_malignant=math.nan,
        fold_p=(math.nan,) * folds,
        spread=math.nan,
        box=NOWHERE,
        cam=np.zeros((0, 0), np.float32),
        warnings=(f"{why.reason}: the {why.role or 'pair'}: {why.message}",),
        refused=why,
    )


# ------------------------------------------------------------------------------------- prepared pairs


def _prepared(seen: Sequence[OpenedPair]) -> Pairs:
    return _in_memory(*(np.stack([pair[side].prepared.pixels for pair in seen]) for side in (0, 1)))


def _in_memory(target: Pixels, reference: Pixels) -> Pairs:
    """Pairs of which nothing is known but their images; each is its own other view."""
    n = len(target)
    names, blank = np.array([str(number) for number in range(n)]), np.array([""] * n)
    nothing = np.zeros((n, 4), np.int64)
    return Pairs(
        name="served",
        fingerprint="",
        pair_id=names,
        patient_id=names,
        study_id=blank,
        view=blank,
        side=blank,
        label=np.zeros(n, np.int64),
        kinds=((),) * n,
        boxes=((),) * n,
        reference_has_lesion=np.zeros(n, bool),
        target=target,
        reference=reference,
        counterfactual=None,
        target_crop=nothing,
        reference_crop=nothing,
    )


# ---------------------------------------------------------------------------------------------- folder

FACTS, PROBE_PAIRS, PROBE_SAID = "model.json", "probe.safetensors", "probe.json"


def write_ensemble(
    folder: Path,
    config: Config,
    states: Mapping[int, Mapping[str, Tensor]],
    pairs: Pairs,
    made_from: Mapping[str, Any],
) -> None:
    """A folder to load an `Ensemble` from, whole or not at all.

    Args:
        folder: is not there yet.
        config: of all folds.
        states: each fold's tensors, as `FoldResult.state` has them.
        pairs: what they were trained on: how it was prepared, and what is usual in it.
        made_from: what is kept beside, as JSON: units, cache, splits, code.

    Raises:
        ConfigError: a model of this configuration needs more than a pair.
        ModelError: something stands there, or it cannot be written.
    """
    if folder.exists():
        raise ModelError(f"a model is written once but {folder} is there: choose another folder")
    if cast(Network, methods.build(config.edit(backbone_weights="none"))).needs_other:
        raise ConfigError(
            "this configuration looks at both views of a breast but a pair to predict has one: "
            "take another value of bilateral"
        )
    options = pairs.recipe.get("options", {})
    known = {"background": pairs.recipe.get("background"), "range": options.get("range")}
    facts: dict[str, Any] = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "folds": sorted(states),
        "preparation": {"size": pairs.size} | {name: value for name, value in known.items() if value},
        "trained_on": {
            "dataset": pairs.name,
            "pairs": len(pairs),
            "views": sorted(set(pairs.view.tolist())),
            "ranges": _ranges(pairs),
        },
        "made_from": dict(made_from),
        "environment": {"torch": torch.__version__, "machine": platform.machine()},
    }
    probes = _probes(pairs.size)
    with Ensemble(facts, [states[fold] for fold in facts["folds"]]) as ensemble:
        judgement = ensemble.judge(_in_memory(**probes))
        said = {"fold_p": judgement.fold_p.tolist(), "boxes": ensemble.places(judgement)}
    content = {
        _of_fold(fold): save_tensors({k: v.detach().cpu().contiguous() for k, v in state.items()})
        for fold, state in states.items()
    }
    content[PROBE_PAIRS] = save_arrays({k: np.ascontiguousarray(v) for k, v in probes.items()})
    content[PROBE_SAID] = _json(said)
    facts["files"] = {name: _sha256(data) for name, data in content.items()}
    sealed = facts | {"sha256": _digest(facts)}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(folder) as draft:
            draft.mkdir()
            for name, data in (content | {FACTS: _json(sealed)}).items():
                (draft / name).write_bytes(data)
    except OSError as error:
        raise ModelError(f"a model cannot be written to {folder}: {error.strerror}") from error


def _probes(size: int) -> dict[str, Pixels]:
    records = phantom.scan(phantom.Options(pairs=PROBES, seed=PROBE_SEED), size).records
    prepared = [prepare_pair(record, Preprocessing(size)) for record in records]
    pairs = [pair for pair in prepared if isinstance(pair, PreparedPair)]
    return {
        "target": np.stack([pair.target.pixels for pair in pairs]),
        "reference": np.stack([pair.reference.pixels for pair in pairs]),
    }


def read_facts(folder: Path) -> dict[str, Any]:
    """`model.json` of a folder.

    Raises:
        ModelError: there is none, or it is damaged or of another format.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_bytes())
        sealed, form = facts.pop("sha256"), facts["format"]
    except OSError as error:
        raise ModelError(f"no model in {folder}: {FACTS}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(folder, FACTS, "it cannot be read") from None
    if sealed != _digest(facts):
        raise _damaged(folder, FACTS, "its sha256 differs")
    if form != FORMAT:
        raise ModelError(f"the model in {folder} has format {form} but format {FORMAT} is read")
    return facts


def _read(folder: Path, name: str, sha256: str) -> bytes:
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise _damaged(folder, name, error.strerror or "it cannot be read") from None
    if _sha256(content) != sha256:
        raise _damaged(folder, name, "its sha256 differs")
    return content


def _on_disk(pairs: Sequence[FilmPair], folder: Path) -> Iterator[FilmPair]:
    for number, pair in enumerate(pairs):
        own = folder / str(number)
        own.mkdir()
        yield pair.on_disk(own)


def _of_fold(fold: int) -> str:
    return f"fold_{fold}.safetensors"


def _damaged(folder: Path, name: str, why: str) -> ModelError:
    return ModelError(f"{name} of the model in {folder} is damaged ({why}): fetch or package it again")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(value: Any) -> str:
    return _sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
