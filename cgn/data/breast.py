"""From a film to the image that the networks read: 8 bits, the breast alone, chest wall on the left, square.

Pure functions of arrays (readings 22 and 23). Coordinates are pixels with the origin at the top left. Callers
with several processes set `cv2.setNumThreads` themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cgn.data.boxes import Box
from cgn.errors import ConfigError, Reason, UnreadableImageError

StoredPixels = NDArray[np.uint8] | NDArray[np.uint16]
Laterality = Literal["L", "R"]
Wall = Literal["left", "right"]
"""The side of a film on which the chest wall is. It depends on the collection and on the breast."""
Background = Literal["keep", "mask"]
Crop = tuple[int, int, int, int]  # x0, y0, width, height in the source image, before mirroring

DECIMATED = 128
"""Longest side, in pixels, of the copy that is thresholded: finding components takes 1 ms instead of 68."""

SMALLEST_BREAST = 0.02
"""Share of the film below which the largest component is a label, not a breast (mini-MIAS: 0.11 or more)."""

SMALLEST_LABEL = 0.001
"""Share of the film below which a bright spot beside the breast is kept: it is grain at the skin line."""

WRONG_WAY = 0.25
"""How much longer, as a share of the breast's height, its edge may be on the side opposite the chest wall.
mini-MIAS: never above 0.03, and below -0.3 in 319 of its 322 films."""


NEGATIVE = 0.0
"""Excess of the bright part's share of the border over the dark part's, minus that of their solidities, from
which a film is a negative. mini-MIAS: at most -0.45; its negatives: 0.3 or more in 99 %."""

CONVEX = 0.96
"""Solidity from which the bright part is a breast, even if it fills the film (mini-MIAS negatives: 0.95)."""


@dataclass(frozen=True)
class Preprocessing:
    """Sec. IV-A. How stored pixels become the images of a cache; films to predict are prepared likewise.

    Attributes:
        size: side of the prepared image in pixels.
        background: "keep" keeps faint pixels around the breast, "mask" keeps only the breast's component.

    Raises:
        ConfigError: a size outside of [8, 4096], or an unknown background.
    """

    size: int = 224
    background: Background = "keep"

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096:
            raise ConfigError(f"size must lie in [8, 4096] pixels but got {self.size}")
        if self.background not in ("keep", "mask"):
            raise ConfigError(f"background must be 'keep' or 'mask' but got {self.background!r}")


DEFAULT_PREPROCESSING = Preprocessing()


class PreparedImage(NamedTuple):
    """An image of the breast for the networks.

    Attributes:
        pixels: `(size, size)`, chest wall on the left.
        crop: where `pixels` lie in the source image.
        boxes: the lesions that lie in the crop, in pixels of this image.
        chest_wall: where it is in the source image.
    """

    pixels: NDArray[np.uint8]
    crop: Crop
    boxes: tuple[Box, ...]
    chest_wall: Wall


class BreastRegion(NamedTuple):
    """The breast's box in full-size pixels; decimated masks of the breast and of what must be painted out."""

    crop: Crop
    breast: NDArray[np.bool_]
    foreign: NDArray[np.bool_]


def to_uint8(pixels: StoredPixels, bits: int) -> NDArray[np.uint8]:
    """Sec. IV-A. Maps the stored range [0, 2^bits - 1] linearly to [0, 255], the same for every image.

    Raises:
        UnreadableImageError: a stored value does not fit into `bits`.
    """
    top = 2**bits - 1
    if pixels.size and int(pixels.max()) > top:
        raise UnreadableImageError(
            f"stored values must fit into {bits} bits but reach {int(pixels.max())}", Reason.DEPTH
        )
    if bits == 8:
        return pixels.astype(np.uint8, copy=False)
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / top).reshape(pixels.shape))  # rounds to even


def find_breast(image: StoredPixels, bits: int) -> BreastRegion:
    """Sec. IV-A, reading 22. Otsu's threshold on a decimated copy; the largest component is the breast.

    The mask is opened (3 x 3) first, so that a film's edge or a thin bridge does not join a label to the
    breast. Other bright components are foreign, except tiny ones and those that lie mostly within the
    breast's convex hull or skin: islands of dense tissue, joined to the breast by faint tissue.

    Raises:
        UnreadableImageError: nothing in the image is large and bright enough, or the film is a negative.
    """
    if image.ndim != 2 or not image.size:
        raise UnreadableImageError(
            f"an image must be (rows, columns) but is {image.shape}", Reason.NOT_AN_IMAGE
        )
    rows, columns = image.shape
    step = _step(image)
    down, right = rows // step, columns // step
    if not (down and right):
        raise UnreadableImageError(f"no breast: {rows} x {columns} pixels are a strip", Reason.NO_BREAST)
    # Averaging whole blocks of step x step pixels is several times faster than averaging fractions of them.
    small = cv2.resize(image[: down * step, : right * step], (right, down), interpolation=cv2.INTER_AREA)
    grey = to_uint8(small, bits)
    threshold, bright = cv2.threshold(grey, 0, 1, cv2.THRESH_OTSU)
    solid = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count < 2 or areas.max() < SMALLEST_BREAST * solid.size or small.min() == small.max():
        share = areas.max() / solid.size if count > 1 else 0
        raise UnreadableImageError(
            f"no breast: the largest bright part must cover {SMALLEST_BREAST:.0%} but covers {share:.1%}",
            Reason.NO_BREAST,
        )
    largest = 1 + int(areas.argmax())
    breast = labels == largest
    _refuse_negative(breast, solid)

    x, y, width, height = (int(v) for v in stats[largest, : cv2.CC_STAT_AREA])
    x0, y0 = x * step, y * step
    x1 = columns if x + width == right else (x + width) * step
    y1 = rows if y + height == down else (y + height) * step
    return BreastRegion(
        (x0, y0, x1 - x0, y1 - y0), breast, _foreign(labels, breast, _skin(grey, threshold, breast))
    )


def _refuse_negative(breast: NDArray[np.bool_], solid: NDArray[np.uint8]) -> None:
    """A breast is convex and leaves most of the border dark; on a negative, both hold of the dark part."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - solid, connectivity=8)
    if count < 2:
        return
    dark = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    solidity = _solidity(breast)
    excess = (_border(breast) - _border(dark)) - (solidity - _solidity(dark))
    if excess > NEGATIVE and solidity < CONVEX:
        raise UnreadableImageError(
            "the breast must be brighter than the rest of the film but is darker: the film is a negative",
            Reason.NEGATIVE,
        )


def _border(mask: NDArray[np.bool_]) -> float:
    """The share of the image's border that a mask covers."""
    return float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean())


def _solidity(mask: NDArray[np.bool_]) -> float:
    """The share of its convex hull that a mask fills."""
    hull = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(cv2.findNonZero(mask.astype(np.uint8))), 1)
    return float(mask.sum() / hull.sum())


def _step(image: StoredPixels) -> int:
    """How many pixels of the image one pixel of the decimated copy covers, along a side."""
    return int(-(-max(image.shape) // DECIMATED))


def _skin(grey: NDArray[np.uint8], threshold: float, breast: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The breast with its faint tissue: Otsu's threshold again, on the pixels below the first threshold."""
    faint_from, _ = cv2.threshold(grey[grey <= threshold][None], 0, 1, cv2.THRESH_OTSU)
    faint = cv2.morphologyEx((grey > faint_from).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels = cv2.connectedComponents(faint, connectivity=8)
    shared = np.bincount(labels[breast], minlength=count)
    shared[0] = 0
    return np.asarray(labels == shared.argmax()) if shared.any() else breast


def _foreign(
    labels: NDArray[np.int32], breast: NDArray[np.bool_], skin: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """What to paint out: components mostly outside of the breast's hull and skin, with their soft edges."""
    tissue = skin.astype(np.uint8)
    cv2.fillConvexPoly(tissue, cv2.convexHull(cv2.findNonZero(breast.astype(np.uint8))), 1)
    inside = np.bincount(labels[tissue > 0], minlength=labels.max() + 1)
    outside = np.bincount(labels[tissue == 0], minlength=labels.max() + 1)
    paint = (outside > inside) & (outside + inside > SMALLEST_LABEL * labels.size)
    paint[0] = False
    soft_edge = cv2.dilate(paint[labels].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.asarray(soft_edge & ~breast)


def prepare(
    image: StoredPixels,
    bits: int,
    chest_wall: Wall | None,
    size: int,
    boxes: Sequence[Box] = (),
    region: BreastRegion | None = None,
    background: Background = "keep",
) -> PreparedImage:
    """Sec. IV-A, readings 22 and 23. Crops an image to its breast, mirrors it if need be, and resizes it.

    A box is clipped to the crop. A box outside of the crop is dropped, since then the annotation is wrong,
    not the breast (mini-MIAS mdb212); callers find this by comparing the number of boxes.

    Args:
        image: `(rows, columns)`, stored values of `bits` bits.
        bits: depth of the stored values, 8 to 16.
        chest_wall: where it is in `image`; None takes it from the breast's shape. On the right, the image is
            mirrored.
        size: side of the result in pixels.
        boxes: lesions in pixels of `image`.
        region: used instead of `find_breast(image)`: a counterfactual is cropped as its target.
        background: see `Preprocessing`.

    Raises:
        UnreadableImageError: no breast is found, values exceed `bits`, or the chest wall is on the other
            side: the laterality is wrong or the film was mirrored.
    """
    if region is None:
        region = find_breast(image, bits)
    if chest_wall is None:
        chest_wall = chest_wall_of(region)
    else:
        _check_wall(region.breast, chest_wall)
    x0, y0, width, height = region.crop
    pixels = to_uint8(image[y0 : y0 + height, x0 : x0 + width], bits)

    dark = region.foreign if background == "keep" else ~region.breast
    if dark.any():
        step = _step(image)
        row, column = (
            np.minimum(np.arange(start, start + length) // step, end - 1)
            for start, length, end in zip((y0, x0), (height, width), dark.shape, strict=True)
        )
        pixels = cv2.copyTo(pixels, np.asarray(~dark, np.uint8).take(column, 1).take(row, 0))

    square = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    if chest_wall == "right":
        square = np.ascontiguousarray(square[:, ::-1])
    mapped = (to_cached(box, region.crop, chest_wall, size) for box in boxes)
    return PreparedImage(square, region.crop, tuple(box for box in mapped if box is not None), chest_wall)


def _check_wall(breast: NDArray[np.bool_], chest_wall: Wall) -> None:
    longer = _longer_on_the_left(breast)
    if (longer if chest_wall == "right" else -longer) > WRONG_WAY:
        raise UnreadableImageError(
            f"the chest wall must be on the {chest_wall} of the film but is on the other side: "
            "the laterality is wrong or the film was mirrored",
            Reason.WRONG_SIDE,
        )


def to_cached(box: Box, crop: Crop, chest_wall: Wall, size: int) -> Box | None:
    """Converts a box from the source image to the cached image, clipped; None if outside of the crop."""
    x0, y0, width, height = crop
    left, right = ((x - x0) * size / width for x in (box[0], box[2]))
    top, bottom = ((y - y0) * size / height for y in (box[1], box[3]))
    if chest_wall == "right":
        left, right = size - right, size - left
    clipped = max(left, 0.0), max(top, 0.0), min(right, float(size)), min(bottom, float(size))
    return clipped if clipped[0] < clipped[2] and clipped[1] < clipped[3] else None


def to_source(box: Box, crop: Crop, chest_wall: Wall, size: int) -> Box:
    """Converts a box from the cached image to the source image; the inverse of `to_cached`."""
    x0, y0, width, height = crop
    left, right = (size - box[2], size - box[0]) if chest_wall == "right" else (box[0], box[2])
    return (
        x0 + left * width / size,
        y0 + box[1] * height / size,
        x0 + right * width / size,
        y0 + box[3] * height / size,
    )


def chest_wall_of(region: BreastRegion) -> Wall:
    """The side of the chest wall, by the breast's shape: its edge is longer there."""
    return "left" if _longer_on_the_left(region.breast) > 0 else "right"


def _longer_on_the_left(breast: NDArray[np.bool_]) -> float:
    """By how much the breast's edge is longer on its left than on its right, as a share of its height."""
    columns = np.flatnonzero(breast.any(0))
    inside = breast[breast.any(1), columns[0] : columns[-1] + 1]
    edge = max(1, inside.shape[1] // 20)
    return float(inside[:, :edge].mean() - inside[:, -edge:].mean())
