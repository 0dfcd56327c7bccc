"""Fig. 4 to 6, from plain arrays and from a network. No display is needed."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from torch import Tensor

from cgn import files
from cgn.config import Config
from cgn.data.boxes import Box
from cgn.errors import ConfigError
from cgn.fit import network_of, predict
from cgn.images import Images
from cgn.methods import Counterfactual, Method
from cgn.metrics import box_from_cam
from cgn.predict import Ensemble, PairPrediction
from cgn.results import FoldResult, FoldState

Films = NDArray[np.uint8]  # (n, size, size), chest wall on the left
Maps = NDArray[np.floating[Any]]  # (n, h, w)
TRUTH, PREDICTED, TARGET = "lime", "orange", "red"
KEYS = {TARGET: "target: the film with a finding", TRUTH: "annotated lesion", PREDICTED: "predicted location"}
"""What the colour of a frame or box means."""
OVERLAY = "Colours on a film: the activation map of the predicted class, from blue (low) to red (high)."
FEATURES = {
    "H_T": "target",
    "H_R": "reference",
    "H_C": "generated counterfactual (the target without its lesion)",
    "true H_C": "true counterfactual, known for phantoms",
}
"""Whose features a column of Fig. 5 shows."""
TILE_SIDE = 1.6  # inches
COLUMNS = 5  # epochs that Fig. 6 shows, and the best one
TEXT_SIZE, LINE = 8, 0.16  # points, inches
BAR_HEIGHT = 0.07  # of a colour bar, in tiles
LETTERS_PER_INCH = 17  # of this size

Draw = Callable[[Axes, int], None]
"""Draws the tile of pair i."""
Limits = tuple[float, float]
"""The ends of a colour scale."""


class Localisations(NamedTuple):
    """Sec. IV-E. Activation maps of the predicted class, and predicted boxes in pixels of the target."""

    cams: Maps
    boxes: Sequence[Box]


def fig4(
    target: Films,
    reference: Films,
    truths: Sequence[Sequence[Box]],
    localisations: Mapping[str, Localisations],
) -> Figure:
    """Fig. 4. Each pair, its lesions in green, and the activation map and box (orange) of each method.

    Args:
        target, reference: films of each pair; the target is framed in red.
        truths: lesions in pixels of the target.
        localisations: by method.
    """
    _check(len(target), reference, truths, *_arrays(localisations.values()))

    def framed(axes: Axes, i: int) -> None:
        _film(axes, target[i])
        axes.add_patch(
            Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, ec=TARGET, lw=3, clip_on=False)
        )

    films = {"target": framed, "reference": _films(reference), "lesions": _films(target, truths)}
    maps = {name: _localised(target, truths, method) for name, method in localisations.items()}
    return _grid(len(target), films | maps, (TARGET, TRUTH, PREDICTED), OVERLAY)


def fig5(
    target: Films, reference: Films, truths: Sequence[Sequence[Box]], features: Mapping[str, Maps]
) -> Figure:
    """Fig. 5. Each pair beside its features; the target's lesions in green, in all feature maps.

    Args:
        target, reference, truths: as in `fig4`.
        features: `strongest` of H_T, H_R, H_C and so on, by name. Each has a colour scale of its own, because
            generated features can have another range, which would make the other maps look empty.
    """
    _check(len(target), reference, truths, *features.values())
    films = {"target": _films(target), "lesions": _films(target, truths), "reference": _films(reference)}
    columns = films | _active(target, truths, features)
    return _grid(len(target), columns, (TRUTH,), _about(features), _limits(features))


def fig6(
    target: Films,
    reference: Films,
    truths: Sequence[Sequence[Box]],
    localisations: Mapping[int, Localisations],
) -> Figure:
    """Fig. 6. Each pair, and the predicted location (orange) after some epochs of training.

    Args:
        target, reference, truths: as in `fig4`.
        localisations: by the number of epochs trained.
    """
    _check(len(target), reference, truths, *_arrays(localisations.values()))
    films = {"target": _films(target), "reference": _films(reference), "lesions": _films(target, truths)}
    maps = {f"epoch {n}": _localised(target, truths, localisations[n]) for n in sorted(localisations)}
    return _grid(len(target), films | maps, (TRUTH, PREDICTED), OVERLAY)


def unlabelled(
    target: Films, reference: Films, localisations: Localisations, features: Mapping[str, Maps]
) -> Figure:
    """Pairs without annotations: films, activation map with box, and features as in `fig5`."""
    _check(len(target), reference, *localisations, *features.values())
    no_truths: Sequence[Sequence[Box]] = [()] * len(target)
    films = {"target": _films(target), "reference": _films(reference)}
    maps = {"map and box": _localised(target, no_truths, localisations)}
    columns = films | maps | _active(target, no_truths, features)
    words = f"{OVERLAY} {_about(features)}".strip()
    return _grid(len(target), columns, (PREDICTED,), words, _limits(features))


def strongest(h: NDArray[np.floating[Any]]) -> Maps:
    """Sec. IV-F. Features as an image: the largest channel of each cell. (n, C, h, w) -> (n, h, w)"""
    return np.asarray(h.max(1))


class Snapshots:
    """A checkpoint store for `cgn.fit.fit` that keeps the networks for Fig. 6. It never resumes a fold.

    Attributes:
        checkpoint_every: epochs between two snapshots; a fifth of all epochs unless it is given.
        trained: whether a fold was trained with them. A fold that was read from elsewhere has no Fig. 6.
    """

    def __init__(
        self, config: Config, images: Images, index: NDArray[np.int64], checkpoint_every: int | None = None
    ) -> None:
        self.checkpoint_every = checkpoint_every or max(1, config.epochs // COLUMNS)
        self.trained = False
        self._config, self._images, self._index = config, images, index
        self._models: dict[int, dict[str, Tensor]] = {}

    def load(self) -> None:
        """None: the fold starts from its beginning."""
        self.trained = True

    def save(self, state: FoldState) -> None:
        """Keep a copy of the network; one of a stage classifies nothing."""
        if not state.epochs:
            return
        self._models[state.epochs] = {
            name.removeprefix("model."): tensor.clone()
            for name, tensor in state.tensors.items()
            if name.startswith("model.")
        }

    def figures(self, result: FoldResult) -> dict[str, Figure]:
        """`draw_network` for the best epoch; Fig. 6 shows the snapshots and the best epoch."""
        models = {**self._models, result.best_epoch + 1: {}} if self.trained else {}
        history = {
            epochs: localisations_of(self._network(result, model), self._images, self._index)
            for epochs, model in models.items()
        }
        return draw_network(self._network(result, {}), self._images, self._index, history=history)

    def _network(self, result: FoldResult, model: Mapping[str, Tensor]) -> Method:
        state = {**result.state, **model}  # only the result has a frozen trunk
        return network_of(self._config, state, str(self._images.device))


def localisations_of(network: Method, images: Images, index: NDArray[np.int64]) -> Localisations:
    """Sec. IV-E. Maps and boxes of the class that a network predicts for these pairs."""
    cams = predict(network, images, index).cam.cpu().numpy()
    return Localisations(cams, [box_from_cam(cam, images.pairs.size) for cam in cams])


def draw_network(
    network: Method,
    images: Images,
    index: NDArray[np.int64],
    name: str = "CGN",
    history: Mapping[int, Localisations] | None = None,
) -> dict[str, Figure]:
    """Fig. 4 to 6 of these pairs, on which the network should not have been trained.

    Args:
        network: of a finished fold.
        images: the data.
        index: rows of the pairs to draw.
        name: of the method, for its column in Fig. 4.
        history: localisations by the number of epochs trained, for Fig. 6.

    Returns:
        The figures by name; fig5 only with counterfactual features, fig6 only with a history.
    """
    pairs = images.pairs
    shown = pairs.target[index], pairs.reference[index], [pairs.boxes[i] for i in index]
    figures = {"fig4": fig4(*shown, {name: localisations_of(network, images, index)})}
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


def draw_prediction(ensemble: Ensemble, prediction: PairPrediction) -> Figure:
    """The films of a prediction, its activation map and box, and its features, with its figures and warnings.

    Raises:
        ConfigError: the films were refused.
    """
    if prediction.opened is None:
        raise ConfigError(f"films must be usable to be drawn but are not: {prediction.warnings[0]}")
    target, reference = (film.prepared.pixels[None] for film in prediction.opened)
    cam = prediction.cam
    localisations = Localisations(cam[None], [box_from_cam(cam, target.shape[-1])])
    features = {name: h[None] for name, h in ensemble.counterfactual(prediction).items()}
    figure = unlabelled(target, reference, localisations, features)
    lines = [prediction.summary(), *(f"warning: {warning}" for warning in prediction.warnings)]
    text = _wrapped("\n".join(lines), figure)
    figure.suptitle(text, x=0.01, ha="left", fontsize=TEXT_SIZE + 1)
    figure.set_figheight(figure.get_figheight() + 2 * LINE * (1 + text.count("\n")))
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write an image file; its suffix decides the format, PNG if there is none.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(path) as draft:
            figure.savefig(draft, dpi=110, format=path.suffix.removeprefix(".") or "png")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None


def _check(n: int, *others: Sequence[object] | NDArray[Any]) -> None:
    if n < 1 or any(len(other) != n for other in others):
        raise ValueError(
            f"all inputs must have one entry per pair, and there must be a pair, but lengths are {n} and "
            f"{[len(other) for other in others]}"
        )


def _arrays(localisations: Iterable[Localisations]) -> Iterator[Maps | Sequence[Box]]:
    """Maps and boxes of each, whose lengths are checked."""
    for localisation in localisations:
        yield from localisation


def _grid(
    rows: int,
    columns: Mapping[str, Draw],
    keys: Sequence[str],
    words: str = "",
    scales: Mapping[str, Limits] | None = None,
) -> Figure:
    """A row of tiles for each pair, above a legend.

    Args:
        rows: number of pairs.
        columns: what to draw, by title.
        keys: colours of frames and boxes to explain.
        words: further explanation.
        scales: limits of the columns with a colour bar.
    """
    figure = Figure(figsize=(TILE_SIDE * len(columns), TILE_SIDE * rows + 0.3), layout="constrained")
    heights = [*[1.0] * rows, *([BAR_HEIGHT] if scales else [])]
    axes = figure.subplots(len(heights), len(columns), squeeze=False, height_ratios=heights)
    for j, (title, draw) in enumerate(columns.items()):
        axes[0, j].set_title(title, fontsize=9)
        for i in range(rows):
            draw(axes[i, j], i)
            axes[i, j].set_axis_off()
        if scales and title in scales:
            _draw_bar(axes[rows, j], scales[title])
        elif scales:
            axes[rows, j].set_axis_off()
    text = _wrapped(words, figure)
    patches = [Patch(fill=False, edgecolor=key, linewidth=2, label=KEYS[key]) for key in keys]
    figure.legend(
        handles=patches,
        title=text,
        loc="outside lower left",
        ncols=len(keys),
        alignment="left",
        frameon=False,
        fontsize=TEXT_SIZE,
        title_fontsize=TEXT_SIZE,
    )
    figure.set_figheight(figure.get_figheight() + LINE * (3 + text.count("\n")) + (0.3 if scales else 0))
    return figure


def _draw_bar(axes: Axes, limits: Limits) -> None:
    """The colour scale of a column, with its ends."""
    axes.figure.colorbar(ScalarMappable(Normalize(*limits), "jet"), cax=axes, orientation="horizontal")
    axes.set_xticks(list(limits), labels=[f"{limit:.2g}" for limit in limits])
    axes.tick_params(labelsize=TEXT_SIZE - 1)
    low, high = axes.get_xticklabels()
    low.set_horizontalalignment("left")
    high.set_horizontalalignment("right")


def _wrapped(text: str, figure: Figure) -> str:
    """Lines that fit the width of a figure."""
    width = int(LETTERS_PER_INCH * figure.get_figwidth())
    return "\n".join(textwrap.fill(line, width) for line in text.split("\n"))


def _films(images: Films, truths: Sequence[Sequence[Box]] | None = None) -> Draw:
    def draw(axes: Axes, i: int) -> None:
        _film(axes, images[i])
        _draw_boxes(axes, truths[i] if truths else (), TRUTH)

    return draw


def _localised(target: Films, truths: Sequence[Sequence[Box]], localisations: Localisations) -> Draw:
    def draw(axes: Axes, i: int) -> None:
        _film(axes, target[i])
        axes.imshow(_enlarged(np.maximum(localisations.cams[i], 0), target.shape[-1]), cmap="jet", alpha=0.45)
        _draw_boxes(axes, truths[i], TRUTH)
        _draw_boxes(axes, [localisations.boxes[i]], PREDICTED)

    return draw


def _active(target: Films, truths: Sequence[Sequence[Box]], features: Mapping[str, Maps]) -> dict[str, Draw]:
    """Feature maps by name, each with a colour scale of its own."""
    limits = _limits(features)

    def active(name: str) -> Draw:
        low, high = limits[name]

        def draw(axes: Axes, i: int) -> None:
            axes.imshow(_enlarged(features[name][i], target.shape[-1]), cmap="jet", vmin=low, vmax=high)
            _draw_boxes(axes, truths[i], TRUTH)

        return draw

    return {name: active(name) for name in features}


def _limits(features: Mapping[str, Maps]) -> dict[str, Limits]:
    """The ends of each colour scale, over all pairs."""
    return {name: (float(maps.min()), float(maps.max())) for name, maps in features.items()}


def _about(features: Mapping[str, Maps]) -> str:
    """Whose features the columns show, and how to compare them; "" without such columns."""
    if not features:
        return ""
    names = "; ".join(f"{name}: {FEATURES[name]}" for name in features if name in FEATURES)
    return (
        f"Features, the strongest channel of each cell. {names}. Each column has its own colour scale (bar): "
        "compare places, not colours, between columns."
    )


def _film(axes: Axes, image: Films) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)


def _enlarged(map_: Maps, size: int) -> Maps:
    return np.asarray(cv2.resize(np.ascontiguousarray(map_, np.float32), (size, size)))


def _draw_boxes(axes: Axes, boxes: Sequence[Box], colour: str) -> None:
    for x0, y0, x1, y1 in boxes:
        # matplotlib has the centre of the first pixel at 0
        axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=colour, lw=1.5))
