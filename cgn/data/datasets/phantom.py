"""Eq. 1. Phantoms: pairs drawn from the causal model, with known labels and true counterfactuals.

A common cause C (shape, density, texture seed, lesion-like nodules) generates both breasts; a lesion Z is
added to the target. Nodules of C are on both sides, so that one view alone is misleading and the pair is not.
The sides differ by a small smooth deformation, by texture and by noise. The target without its lesion, with
the same noise, is the true counterfactual (H_C of Theorem III.1).

Films have 14 bits, are not square, and have a dark background and a bright tag: `cgn.data.breast` prepares
them as it does real ones. Pair i depends only on the seed, the size, the view and i.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import fft

from cgn.data.boxes import Box
from cgn.data.breast import Laterality
from cgn.data.datasets import DatasetOptions, FilmRecord, Scan
from cgn.data.records import PairRecord, RawImage, RawPair

Field2D = NDArray[np.float32]

BITS = 14

DIFFICULTY = SimpleNamespace(
    nodules=(1, 2),
    radius=(4.0, 6.5),
    smooth_contrast=0.20,
    spiculated_contrast=0.24,
    spicule_length=0.9,
    jitter=(1.0, 2.0),
    texture=0.09,
    own_texture=0.15,
    deformation=1.0,
    noise=0.015,
)
"""How hard the phantom is. Lengths in pixels of a 96-pixel image, brightness as a share of full scale.

nodules: fewest and most symmetric nodules; more of them make a single view less informative.
radius: of nodules and lesions.
smooth_contrast, spiculated_contrast: brightness that a benign-looking or a malignant-looking one adds.
spicule_length: of spicules beyond the radius, as a share of it.
jitter: distance between the two copies of a symmetric nodule; more makes the pair less informative.
texture: standard deviation of the breast's texture (power spectrum 1/f^3).
own_texture: share of that variance that the sides do not have in common.
deformation: standard deviation of the smooth displacement between the sides.
noise: standard deviation of the grain, independent in every film.

The values were chosen with the one-view network and with the oracle that uses the true counterfactual, never
with results of CGN (docs/LOG.md). They must not be tuned: a change renames every phantom cache.
"""


class Options(DatasetOptions):
    """How many phantom pairs, and which."""

    pairs: int = Field(300, ge=1, description="how many pairs of each view; half are malignant")
    seed: int = Field(0, ge=0, description="which pairs: pair i of a seed does not depend on their number")
    views: Literal[1, 2] = Field(1, description="1: MLO; 2: each woman also has a CC pair")


View = Literal["MLO", "CC"]
STREAMS: dict[View, int] = {"MLO": 0, "CC": 2}
"""Streams of random numbers: this one for the layout of a view, the next one for its textures and noise."""


class Nodule(NamedTuple):
    """A bright spot at `(x, y)` in pixels of a 96-pixel image of a right breast."""

    x: float
    y: float
    radius: float
    spicules: NDArray[np.float64] | None
    """`(n, 3)` angle in radians, length and sharpness of each; None for a smooth one."""


class Layout(NamedTuple):
    """C and Z as numbers; textures and noise follow from the seed."""

    side: Laterality
    width: float
    height: float
    density: float
    common: tuple[Nodule, ...]
    copies: tuple[Nodule, ...]
    lesion: Nodule


def scan(options: Options, size: int = 224) -> Scan:
    """Eq. 1. Phantoms on films about twice as large as the cached images; every second pair is malignant.

    There are no raw files: this module's code is a part of the cache's recipe.
    """
    views: tuple[View, ...] = ("MLO", "CC")
    records = tuple(
        _record(options.seed, index, view, size)
        for index in range(options.pairs)
        for view in views[: options.views]
    )
    malignant = sum(record.label for record in records)
    return Scan(
        name="phantom",
        records=records,
        files=(),
        missing=(),
        counts={"targets": len(records), "benign": len(records) - malignant, "malignant": malignant},
        sandboxed=False,
    )


def healthy(options: Options, size: int = 224) -> tuple[PairRecord, ...]:
    """Sec. IV-D. The same number of pairs of other women, without lesions, for the test of the prior."""
    more = scan(options.model_copy(update={"pairs": 2 * options.pairs}), size).records
    return tuple(
        replace(record, label=0, kinds=(), boxes=(), load=partial(_without_lesion, record.load))
        for record in more[len(more) // 2 :]
    )


def healthy_films(options: Options, size: int = 224) -> tuple[FilmRecord, ...]:
    """Reading 40. Both films of the pairs of `healthy`, and each pair's reference.

    The target of a pair without its lesion is none of them: only the oracle may read it.
    """
    references = (_film(record, "reference", record.pair_id) for record in scan(options, size).records)
    others = (_film(record, role) for record in healthy(options, size) for role in ("target", "reference"))
    return (*references, *others)


def _film(record: PairRecord, role: str, reference_of: str = "") -> FilmRecord:
    other: Laterality = "R" if record.side == "L" else "L"
    side = record.side if role == "target" else other
    return FilmRecord(
        film_id=f"{record.pair_id}-{side}",
        patient_id=record.patient_id,
        study_id=record.study_id,
        view=record.view,
        side=side,
        no_finding=True,
        no_cohort_finding=True,
        load=partial(_one_film, record.load, role),
        reference_of=reference_of,
    )


def _one_film(load: Callable[[], RawPair], role: str) -> RawImage:
    image: RawImage = getattr(load(), role)
    return image


def _without_lesion(load: Callable[[], RawPair]) -> RawPair:
    _, reference, counterfactual = load()
    assert counterfactual is not None  # noqa: S101  (every phantom has one)
    return RawPair(counterfactual, reference)


def _record(seed: int, index: int, view: View, size: int) -> PairRecord:
    layout = _layout(seed, index, view)
    name = f"phantom-{seed}-{index:05d}"
    return PairRecord(
        pair_id=name if view == "MLO" else f"{name}-{view}",
        patient_id=name,
        study_id=name,
        view=view,
        side=layout.side,
        label=index % 2,
        kinds=("spiculated" if index % 2 else "smooth",),
        boxes=(_box(layout, size),),
        reference_has_lesion=False,
        load=partial(_draw_pair, seed, index, view, size),
    )


def _layout(seed: int, index: int, view: View) -> Layout:
    """A view has its own geometry; side and label are those of the breast."""
    rng = np.random.default_rng([seed, index, STREAMS[view]])
    width, height = rng.uniform(68, 84), rng.uniform(86, 98)
    count = int(rng.integers(DIFFICULTY.nodules[0], DIFFICULTY.nodules[1] + 1))
    places: list[tuple[float, float]] = []
    apart = 3.2 * DIFFICULTY.radius[1]
    while len(places) <= count:
        across, along = rng.uniform(0.12, 0.75), rng.uniform(-0.75, 0.75)
        place = float(across * width), float(60 + along * height / 2)
        inside = np.hypot(across, along) < 0.78
        if inside and all(np.hypot(place[0] - x, place[1] - y) > apart for x, y in places):
            places.append(place)
        else:
            apart *= 0.995  # so that the loop ends, however crowded the breast is
    *common, lesion = (
        _nodule(rng, x, y, spiculated)
        for (x, y), spiculated in zip(places, [*(rng.random(count) < 0.5), bool(index % 2)], strict=True)
    )
    side: Laterality = "L" if rng.random() < 0.5 else "R"
    return Layout(
        side=side if view == "MLO" else _layout(seed, index, "MLO").side,
        width=float(width),
        height=float(height),
        density=float(rng.uniform(0.26, 0.38)),
        common=tuple(common),
        copies=tuple(_moved(rng, nodule) for nodule in common),
        lesion=lesion,
    )


def _nodule(rng: np.random.Generator, x: float, y: float, spiculated: bool) -> Nodule:
    radius = float(rng.uniform(*DIFFICULTY.radius))
    count = int(rng.integers(7, 12))
    angles = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * (2 * np.pi / count) + rng.uniform(0, 6.3)
    shape = np.stack([angles, rng.uniform(0.6, 1.2, count), rng.uniform(30, 60, count)], 1)
    return Nodule(x, y, radius, shape if spiculated else None)


def _moved(rng: np.random.Generator, nodule: Nodule) -> Nodule:
    far, angle = rng.uniform(*DIFFICULTY.jitter), rng.uniform(0, 2 * np.pi)
    return nodule._replace(x=float(nodule.x + far * np.cos(angle)), y=float(nodule.y + far * np.sin(angle)))


def _draw_pair(seed: int, index: int, view: View, size: int) -> RawPair:
    layout = _layout(seed, index, view)
    rng = np.random.default_rng([seed, index, STREAMS[view] + 1])
    rows, columns, scale = _geometry(size)
    texture = _texture(rng, rows, columns)
    other: Laterality = "R" if layout.side == "L" else "L"

    healthy, thickness = _breast(rng, layout, layout.common, texture, size)
    reference, _ = _breast(rng, layout, layout.copies, texture, size)
    lesion = np.zeros_like(healthy)
    _draw(lesion, layout.lesion, scale)
    return RawPair(
        target=_image(healthy + thickness * lesion, layout.side),
        reference=_image(reference, other),
        counterfactual=_image(healthy, layout.side),
    )


def _geometry(size: int) -> tuple[int, int, float]:
    """Rows and columns of a film, and its pixels per pixel of a 96-pixel image."""
    scale = 2 * size / 96
    return round(120 * scale), round(100 * scale), scale


def _breast(
    rng: np.random.Generator, layout: Layout, nodules: tuple[Nodule, ...], common: Field2D, size: int
) -> tuple[Field2D, Field2D]:
    """A healthy side and its thickness, both in [0, 1], chest wall on the left.

    Deformation, grain, tag and a share of the texture are drawn for this side alone. The thickness scales the
    brightness of everything within the breast.
    """
    rows, columns, scale = _geometry(size)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    shift = [_smooth(rng, rows, columns) * np.float32(DIFFICULTY.deformation * scale) for _ in "xy"]
    common = cv2.remap(common, x + shift[0], y + shift[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    own = np.float32(DIFFICULTY.own_texture)
    texture = np.sqrt(1 - own) * common + np.sqrt(own) * _texture(rng, rows, columns)

    across = (x + shift[0]) / np.float32(layout.width * scale)
    along = (y + shift[1] - rows / 2) / np.float32(layout.height / 2 * scale)
    thickness = np.sqrt(np.sqrt(np.clip(1 - across**2 - along**2, 0, 1)))
    tissue = np.full_like(x, layout.density) + np.float32(DIFFICULTY.texture) * texture
    for nodule in nodules:
        _draw(tissue, nodule, scale)
    image = np.float32(0.02) + thickness * np.clip(tissue, 0.05, None)
    top, left = (rng.uniform(low, high) * scale for low, high in ((2, 6), (86, 90)))
    image[int(top) : int(top + 9 * scale), int(left) : int(left + 6 * scale)] = 0.95
    grain = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(image + np.float32(DIFFICULTY.noise) * grain, np.float32), thickness


def _image(image: Field2D, side: Laterality) -> RawImage:
    pixels = np.round(np.clip(image, 0, 1) * (2**BITS - 1)).astype(np.uint16)
    return RawImage(
        np.ascontiguousarray(pixels[:, ::-1]) if side == "L" else pixels,
        BITS,
        "right" if side == "L" else "left",
    )


def _texture(rng: np.random.Generator, rows: int, columns: int) -> Field2D:
    """A field of mean 0 and standard deviation 1 with power spectrum 1/f^3."""
    white = fft.rfft2(rng.standard_normal((rows, columns), dtype=np.float32))
    frequency = np.hypot(fft.fftfreq(rows)[:, None], fft.rfftfreq(columns)[None])
    frequency[0, 0] = np.inf
    field = fft.irfft2(white * (frequency**-1.5).astype(np.float32), s=(rows, columns))
    return np.asarray(field / field.std(), np.float32)


def _smooth(rng: np.random.Generator, rows: int, columns: int) -> Field2D:
    coarse = rng.standard_normal((5, 4)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC), np.float32)


def _patch(nodule: Nodule, scale: float) -> tuple[Field2D, int, int]:
    """Brightness of a nodule in [0, 1], and the column and row of the patch's corner in the film."""
    x, y, radius = nodule.x * scale, nodule.y * scale, nodule.radius * scale
    reach = int(np.ceil(radius * (1.4 + 1.2 * DIFFICULTY.spicule_length)))
    left, top = int(x) - reach, int(y) - reach
    row, column = np.mgrid[: 2 * reach + 1, : 2 * reach + 1].astype(np.float32)
    down, across = row + np.float32(top - y), column + np.float32(left - x)
    distance, edge = np.hypot(across, down), np.full_like(row, radius)
    if nodule.spicules is not None:
        angle = np.arctan2(down, across)
        star = np.zeros_like(row)
        for towards, length, sharpness in nodule.spicules.astype(np.float32):
            star = np.maximum(star, length * np.exp(sharpness * (np.cos(angle - towards) - 1)))
        edge = radius * (np.float32(0.75) + np.float32(DIFFICULTY.spicule_length) * star)
    inwards = np.clip(0.5 + (edge - distance) / np.float32(0.7 * radius), 0, 1)
    return np.asarray(inwards * inwards * (3 - 2 * inwards), np.float32), left, top


def _draw(image: Field2D, nodule: Nodule, scale: float) -> None:
    """Adds a nodule to an image in place, clipped to the film."""
    patch, left, top = _patch(nodule, scale)
    spiculated = nodule.spicules is not None
    contrast = DIFFICULTY.spiculated_contrast if spiculated else DIFFICULTY.smooth_contrast
    rows = slice(max(top, 0), min(top + patch.shape[0], image.shape[0]))
    columns = slice(max(left, 0), min(left + patch.shape[1], image.shape[1]))
    inside: Any = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    image[rows, columns] += np.float32(contrast) * inside


def _box(layout: Layout, size: int) -> Box:
    """Where the lesion adds at least a tenth of its contrast, in pixels of the target's film."""
    rows, columns, scale = _geometry(size)
    patch, left, top = _patch(layout.lesion, scale)
    bright = patch >= 0.1
    across, down = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
    x0, x1 = max(left + int(across[0]), 0), min(left + int(across[-1]) + 1, columns)
    y0, y1 = max(top + int(down[0]), 0), min(top + int(down[-1]) + 1, rows)
    if layout.side == "L":
        x0, x1 = columns - x1, columns - x0
    return float(x0), float(y0), float(x1), float(y1)
