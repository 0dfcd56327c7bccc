"""The networks of all folds of one configuration, and the way from raw films to a prediction."""

import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from cgn.config import Config
from cgn.data.boxes import Box
from cgn.data.breast import Preprocessing
from cgn.data.pairs import Pairs
from cgn.data.reading.dicom import DicomOptions
from cgn.data.reading.films import FilmPair, OpenedPair, open_pair
from cgn.data.reading.workers import NO_DEADLINE, Pool
from cgn.data.records import Rejection
from cgn.errors import ModelError, TimeLimitError
from cgn.fit import network_of, predict
from cgn.images import Images, inputs_of, weights_hash
from cgn.methods import Counterfactual
from cgn.metrics import box_from_cam
from cgn.predict.folder import PROBE_IMAGES, PROBE_OUTPUT, fold_file, read_facts, read_file
from cgn.predict.input_warnings import input_warnings
from cgn.predict.prediction import EMPTY_BOX, EnsembleOutput, PairPrediction, refused_pair
from cgn.predict.prepared import ImageStack, pairs_of_films, pairs_of_images
from cgn.temporary import scratch


def _ignore_progress(_opened: int) -> None:
    pass


class Probe(NamedTuple):
    """Prepared images, `target` and `reference` `(n, size, size)`, and the output for them when written."""

    images: Mapping[str, ImageStack]
    output: Mapping[str, Any]


class Ensemble:
    """The networks of all folds of one configuration. It serves one thread at a time; others wait.

    Args:
        facts: `model.json`.
        states: each fold's tensors, in the order of `facts["folds"]`.
        device: cpu, cuda or cuda:1.
        processes: number of processes that open films; default: one per core. They start with the first pair
            and end with `close`.
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
        self._trunks: list[tuple[nn.Module | None, str]] = []
        if self.config.frozen_backbone:  # as in training: features are computed once for all equal trunks
            released = [network.release_trunk()[1] for network in self.networks]
            self._trunks = [(trunk, weights_hash(trunk)) for trunk in released]
        self._films = Pool(partial(open_pair, preprocessing=self.preprocessing, options=options), processes)
        self._lock = threading.Lock()
        self.probe: Probe | None = None
        weakref.finalize(self, self._films.close)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", processes: int | None = None) -> Self:
        """The ensemble of a folder; every file is compared with its SHA-256.

        Raises:
            ModelError: there is no model, or it is damaged; the message names the file.
        """
        facts = read_facts(folder)
        content = {name: read_file(folder, name, sha256) for name, sha256 in facts["files"].items()}
        states = [load_tensors(content[fold_file(fold)]) for fold in facts["folds"]]
        ensemble = cls(facts, states, device=device, processes=processes)
        ensemble.probe = Probe(load_arrays(content[PROBE_IMAGES]), json.loads(content[PROBE_OUTPUT]))
        return ensemble

    def close(self) -> None:
        """End the processes that open films."""
        self._films.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict(
        self,
        pairs: Sequence[FilmPair],
        *,
        seconds: float | None = None,
        on_opened: Callable[[int], None] = _ignore_progress,
    ) -> list[PairPrediction]:
        """Predict each pair of films, in the given order. A pair that cannot be used is refused by itself.

        Args:
            pairs: to predict.
            seconds: within which all films must be opened, waiting for other threads included.
            on_opened: called with the number of pairs that were opened so far.

        Raises:
            TimeLimitError: `seconds` were not enough; processes that open films are free again.
        """
        deadline = NO_DEADLINE if seconds is None else time.monotonic() + seconds
        with self._turn(seconds), scratch() as folder:
            outcomes: dict[int, Any] = {}
            for number, opened in self._films.run(list(_on_disk(pairs, folder)), deadline):
                outcomes[number] = opened
                on_opened(len(outcomes))
            usable = [number for number in range(len(pairs)) if isinstance(outcomes[number], OpenedPair)]
            films = [outcomes[number] for number in usable]
            output = self.predict_prepared(pairs_of_films(films)) if films else None
        row = {number: row for row, number in enumerate(usable)}
        predictions = []
        for number, pair in enumerate(pairs):
            outcome = outcomes[number]
            if output is None or isinstance(outcome, Rejection):
                predictions.append(refused_pair(pair, outcome, len(self.networks)))
            else:
                predictions.append(self._prediction(pair, outcome, output, row[number]))
        return predictions

    def predict_prepared(self, pairs: Pairs) -> EnsembleOutput:
        """Predict pairs that are already prepared, as in a cache."""
        images, index = Images(pairs, self.device), np.arange(len(pairs))
        outputs = [
            predict(network, inputs, index)
            for network, inputs in zip(self.networks, self._inputs(images), strict=True)
        ]
        fold_p = np.stack([output.p_malignant.double().cpu().numpy() for output in outputs])
        cams = np.stack([output.cam.float().cpu().numpy() for output in outputs])
        agrees = (fold_p > 0.5) == (fold_p.mean(0) > 0.5)
        weight = (agrees / agrees.sum(0))[:, :, None, None].astype(np.float32)
        return EnsembleOutput(fold_p, np.asarray((cams * weight).sum(0)))

    def localise(self, output: EnsembleOutput) -> list[Box]:
        """Sec. IV-E. Location of each pair's predicted class, in pixels of the prepared target."""
        return [box_from_cam(cam, self.preprocessing.size) for cam in output.cam]

    def counterfactual(self, prediction: PairPrediction) -> dict[str, NDArray[np.float32]]:
        """Sec. IV-F. The strongest channel of H_T, H_R and H_C, `(h, w)` each, as a mean over the folds.

        Empty if this configuration generates no counterfactual, or if the films were refused.
        """
        if prediction.opened is None or not self._generates:
            return {}
        images = Images(pairs_of_films([prediction.opened]), self.device)
        index = torch.zeros(1, dtype=torch.int64)
        features = [
            cast(Counterfactual, network).features(inputs.batch(index))
            for network, inputs in zip(self.networks, self._inputs(images), strict=True)
        ]
        by_name = {"H_T": [f.target for f in features], "H_R": [f.reference for f in features]}
        by_name |= {"H_C": [f.counterfactual for f in features]}
        return {
            name: np.mean([h[0].amax(0).float().cpu().numpy() for h in maps], axis=0)
            for name, maps in by_name.items()
        }

    def check(self) -> float:
        """Largest deviation from the output that was stored when the ensemble was written.

        It is measured on the probe pairs, over the folds' probabilities and the boxes in pixels: 0 to the bit
        on the same kind of machine, and small on another.

        Raises:
            ModelError: the ensemble was not loaded from a folder.
        """
        if self.probe is None:
            raise ModelError("a model must be loaded from its folder to be compared with its stored output")
        images, stored = self.probe
        output = self.predict_prepared(pairs_of_images(images["target"], images["reference"]))
        expected = [np.array(stored["fold_p"]), np.array(stored["boxes"])]
        computed = [output.fold_p, np.array(self.localise(output))]
        return float(max(np.abs(a - b).max() for a, b in zip(expected, computed, strict=True)))

    @contextmanager
    def _turn(self, seconds: float | None) -> Iterator[None]:
        """One thread at a time. Raises TimeLimitError if others take so many seconds."""
        if not self._lock.acquire(timeout=-1 if seconds is None else seconds):
            raise TimeLimitError("no pair of films was opened in time: other requests took all of it")
        try:
            yield
        finally:
            self._lock.release()

    @property
    def _generates(self) -> bool:
        return all(isinstance(network, Counterfactual) and network.generates for network in self.networks)

    def _inputs(self, images: Images) -> list[Images]:
        """What each fold's network reads: the images, or the features of its trunk."""
        trunks = self._trunks or [(None, "")] * len(self.networks)
        return [
            inputs_of(network, images, trunk, name)
            for network, (trunk, name) in zip(self.networks, trunks, strict=True)
        ]

    def _prediction(
        self, pair: FilmPair, opened: OpenedPair, output: EnsembleOutput, row: int
    ) -> PairPrediction:
        fold_p, cam = output.fold_p[:, row], output.cam[row]
        box = box_from_cam(cam, self.preprocessing.size)
        return PairPrediction(
            pair_id=pair.pair_id,
            p_malignant=float(output.p_malignant[row]),
            fold_p=tuple(fold_p.tolist()),
            spread=float(fold_p.std()),
            box=EMPTY_BOX if box == EMPTY_BOX else opened.target.to_source(box),
            cam=cam,
            warnings=tuple(input_warnings(pair, opened, self.facts["trained_on"])),
            opened=opened,
        )


def _on_disk(pairs: Sequence[FilmPair], folder: Path) -> Iterator[FilmPair]:
    """The same pairs with files in place of bytes; each pair has a folder of its own."""
    for number, pair in enumerate(pairs):
        own = folder / str(number)
        own.mkdir()
        yield pair.on_disk(own)
