"""Fig. 4 to 6: functions of plain arrays, and what draws them of a network. Nothing needs a screen."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor, nn

from cgn.config import Config
from cgn.data.pairs import Box
from cgn.errors import ConfigError
from cgn.fit import Images, network_of, predict
from cgn.methods import Counterfactual
from cgn.metrics import box_from_cam
from cgn.predict import Ensemble, Prediction
from cgn.results import FoldResult, FoldState

Films = NDArray[np.uint8]  # (n, size, size), chest wall on the left
Maps = NDArray[np.floating[Any]]  # (n, h, w)
TRUTH, PREDICTED, TARGET = "lime", "orange", "red"
SIDE = 1.6  # inches of a tile

Draw = Callable[[Axes, int], None]
"""Fills a tile of pair i."""


class Places(NamedTuple):
    """Sec. IV-E. Activation maps of the predicted class, and predicted boxes in pixels of the target."""

    cams: Maps
    boxes: Sequence[Box]


def fig4(
    target: Films, reference: Films, truths: Sequence[Sequence[Box]], places: Mapping[str, Places]
) -> Figure:
    """Fig. 4. Each pair, its lesions in green, and the activation map and box (orange) of each method.

    Args:
        target, reference: films of each pair; the target is framed in red.
        truths: lesions in pixels of the target.
        places: by method.
    """
    _check(len(target), reference, truths, *(of for place in places.values() for of in place))

    def framed(axes: Axes, i: int) -> None:
        _film(axes, target[i])
        axes.add_patch(
            Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, ec=TARGET, lw=3, clip_on=False)
        )

    films = {"target": framed, "reference": _films(reference), "lesions": _films(target, truths)}
    found = {method: _places(target, truths, place) for method, place in places.items()}
    return _grid(len(target), films | found)


def fig5(
    target: Films, reference: Films, truths: Sequence[Sequence[Box]], features: Mapping[str, Maps]
) -> Figure:
    """Fig. 5. Each pair beside its features; the target's lesions in green, also where they are gone.

    Args:
        target, reference, truths: as in `fig4`.
        features: `strongest` of H_T, H_R, H_C and so on by name; one scale of brightness a row, so that
            what disappears is seen to.
    """
    _check(len(target), reference, truths, *features.values())
    films = {"target": _films(target), "lesions": _films(target, truths), "reference": _films(reference)}
    return _grid(len(target), films | _active(target, truths, features))


def fig6(
    target: Films, reference: Films, truths: Sequence[Sequence[Box]], places: Mapping[int, Places]
) -> Figure:
    """Fig. 6. Each pair, and the predicted place (orange) after so many epochs of training.

    Args:
        target, reference, truths: as in `fig4`.
        places: by the number of epochs trained.
    """
    _check(len(target), reference, truths, *(of for place in places.values() for of in place))
    films = {"target": _films(target), "reference": _films(reference), "lesions": _films(target, truths)}
    found = {f"epoch {epochs}": _places(target, truths, places[epochs]) for epochs in sorted(places)}
    return _grid(len(target), films | found)


def served(target: Films, reference: Films, place: Places, features: Mapping[str, Maps]) -> Figure:
    """Pairs of which no truth is known: films, activation map with box, and features as in `fig5`."""
    _check(len(target), reference, *place, *features.values())
    nothing: Sequence[Sequence[Box]] = [()] * len(target)
    films = {"target": _films(target), "reference": _films(reference)}
    found = {"map and box": _places(target, nothing, place)}
    return _grid(len(target), films | found | _active(target, nothing, features))


def strongest(h: NDArray[np.floating[Any]]) -> Maps:
    """Sec. IV-F. Features as a picture: the largest channel of each cell. (n, C, h, w) -> (n, h, w)"""
    return np.asarray(h.max(1))


class Snapshots:
    """A memory for `cgn.fit.fit` that keeps what Fig. 6 looks at, and no state to go on from.

    Attributes:
        every: epochs between two looks.
    """

    def __init__(self, config: Config, images: Images, index: NDArray[np.int64], every: int = 10) -> None:
        self.every = every
        self._config, self._images, self._index = config, images, index
        self._models: dict[int, dict[str, Tensor]] = {}

    def load(self) -> None:
        """Nothing: a fold that is looked at starts from its beginning."""

    def save(self, state: FoldState) -> None:
        """Keep the network as it stands."""
        self._models[len(state.facts["reports"])] = {
            name.removeprefix("model."): tensor.clone()
            for name, tensor in state.tensors.items()
            if name.startswith("model.")
        }

    def figures(self, result: FoldResult) -> dict[str, Figure]:
        """`of_network` for the best epoch; Fig. 6 has what was seen on the way and that epoch."""
        history = {
            epochs: places_of(self._network(result, model), self._images, self._index)
            for epochs, model in {**self._models, result.best_epoch + 1: {}}.items()
        }
        return of_network(self._network(result, {}), self._images, self._index, history=history)

    def _network(self, result: FoldResult, model: Mapping[str, Tensor]) -> nn.Module:
        state = {**result.state, **model}  # a frozen trunk stands in the result alone
        return network_of(self._config, state, str(self._images.device))


def places_of(network: nn.Module, images: Images, index: NDArray[np.int64]) -> Places:
    """Sec. IV-E. Where a network sees the class that it predicts for these pairs."""
    cams = predict(network, images, index).cam.cpu().numpy()
    return Places(cams, [box_from_cam(cam, images.pairs.size) for cam in cams])


def of_network(
    network: nn.Module,
    images: Images,
    index: NDArray[np.int64],
    name: str = "CGN",
    history: Mapping[int, Places] | None = None,
) -> dict[str, Figure]:
    """Fig. 4 to 6 of these pairs, which the network should not have been trained on.

    Args:
        name: of the method, for its column in Fig. 4.
        history: places by the number of epochs trained, for Fig. 6.

    Returns:
        Those that can be drawn: Fig. 5 needs counterfactual features, Fig. 6 a history.
    """
    pairs = images.pairs
    shown = pairs.target[index], pairs.reference[index], [pairs.boxes[i] for i in index]
    figures = {"fig4": fig4(*shown, {name: places_of(network, images, index)})}
    if isinstance(network, Counterfactual) and network.generates:
        features = network.features(images.batch(torch.as_tensor(index.copy())))
        titles = ("H_T", "H_R", "H_C", "true H_C")
        maps = {
            title: strongest(h.cpu().numpy())
            for title, h in zip(titles, features, strict=True)
            if h is not None
        }
        figures["fig5"] = fig5(*shown, maps)
    if history:
        figures["fig6"] = fig6(*shown, history)
    return figures


def draw_prediction(ensemble: Ensemble, said: Prediction) -> Figure:
    """What an ensemble sees in a pair of films that it was asked about. Raises ConfigError if refused."""
    if said.seen is None:
        raise ConfigError(f"films must be usable to be drawn but are not: {said.warnings[0]}")
    target, reference = (film.prepared.pixels[None] for film in said.seen)
    place = Places(said.cam[None], [box_from_cam(said.cam, target.shape[-1])])
    features = {name: h[None] for name, h in ensemble.counterfactual(said).items()}
    return served(target, reference, place, features)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG. Raises ConfigError where none can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None


def _check(n: int, *others: Sequence[object] | NDArray[Any]) -> None:
    if n < 1 or any(len(other) != n for other in others):
        raise ValueError(f"as many of each as pairs, one at least: {n} and {[len(o) for o in others]}")


def _grid(rows: int, columns: Mapping[str, Draw]) -> Figure:
    figure = Figure(figsize=(SIDE * len(columns), SIDE * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for j, (title, draw) in enumerate(columns.items()):
        axes[0, j].set_title(title, fontsize=9)
        for i in range(rows):
            draw(axes[i, j], i)
            axes[i, j].set_axis_off()
    return figure


def _films(images: Films, truths: Sequence[Sequence[Box]] | None = None) -> Draw:
    def draw(axes: Axes, i: int) -> None:
        _film(axes, images[i])
        _draw(axes, truths[i] if truths else (), TRUTH)

    return draw


def _places(target: Films, truths: Sequence[Sequence[Box]], places: Places) -> Draw:
    def draw(axes: Axes, i: int) -> None:
        _film(axes, target[i])
        axes.imshow(_large(np.maximum(places.cams[i], 0), target.shape[-1]), cmap="jet", alpha=0.45)
        _draw(axes, truths[i], TRUTH)
        _draw(axes, [places.boxes[i]], PREDICTED)

    return draw


def _active(target: Films, truths: Sequence[Sequence[Box]], features: Mapping[str, Maps]) -> dict[str, Draw]:
    """Features by name, on one scale of brightness a pair."""

    def active(name: str) -> Draw:
        def draw(axes: Axes, i: int) -> None:
            row = np.stack([maps[i] for maps in features.values()])
            large = _large(features[name][i], target.shape[-1])
            axes.imshow(large, cmap="jet", vmin=row.min(), vmax=row.max())
            _draw(axes, truths[i], TRUTH)

        return draw

    return {name: active(name) for name in features}


def _film(axes: Axes, image: Films) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)


def _large(map_: Maps, size: int) -> Maps:
    return np.asarray(cv2.resize(np.ascontiguousarray(map_, np.float32), (size, size)))


def _draw(axes: Axes, boxes: Sequence[Box], colour: str) -> None:
    for x0, y0, x1, y1 in boxes:
        # the middle of the first pixel stands at 0 in matplotlib
        axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=colour, lw=1.5))
