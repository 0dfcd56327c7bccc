"""From a film to what the networks see: 8 bits, the breast alone, chest wall on the left, square.

Pure functions of arrays (readings 22 and 23). Coordinates are pixels with the origin at the top
left; x1 and y1 of a box are exclusive. `cv2.setNumThreads` is left to callers with several processes.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cgn.data.pairs import Box
from cgn.errors import Reason, UnreadableImageError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Laterality = Literal["L", "R"]
Wall = Literal["left", "right"]
"""The side of a film on which the chest wall stands. How films hang differs between collections."""
Background = Literal["keep", "mask"]
Crop = tuple[int, int, int, int]  # x0, y0, width, height in the source image, before turning

DECIMATED = 128
"""Longest side, in pixels, of the copy that is thresholded: components there cost 1 ms, not 68."""

SMALLEST_BREAST = 0.02
"""Share of the film below which the largest component is a label, not a breast (mini-MIAS: 0.11 or more)."""

SMALLEST_LABEL = 0.001
"""Share of the film below which a bright spot beside the breast is left alone: grain at the skin line."""

WRONG_WAY = 0.25
"""How much longer, as a share of the breast's height, its edge may be on the side that is no chest wall.
mini-MIAS: never above 0.03, and below -0.3 in 319 of its 322 films."""


class Prepared(NamedTuple):
    """Pixels `(size, size)` uint8, the crop they were taken from, and those boxes that lie in it."""

    pixels: NDArray[np.uint8]
    crop: Crop
    boxes: tuple[Box, ...]


class Region(NamedTuple):
    """The breast's box in full-size pixels; and, decimated, the breast and what is to be painted out."""

    crop: Crop
    breast: NDArray[np.bool_]
    foreign: NDArray[np.bool_]


def to_uint8(pixels: Pixels, bits: int) -> NDArray[np.uint8]:
    """Sec. IV-A. Linear map of the stored range [0, 2^bits - 1] to [0, 255], the same for every image.

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


def find_breast(image: Pixels, bits: int) -> Region:
    """Sec. IV-A, reading 22. Otsu's threshold on a decimated copy; the largest component is the breast.

    The mask is opened (3 x 3) first, so that a film's edge or a thin bridge does not join a label to
    the breast. Foreign are the other bright components, unless most of one lies within the breast's
    convex hull or its skin (an island of dense tissue, joined to it by faint tissue), or it is tiny.

    Raises:
        UnreadableImageError: nothing in the image is large and bright enough.
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
    # Whole blocks of step x step pixels: several times faster to average than a fraction of one more.
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

    x, y, width, height = (int(v) for v in stats[largest, : cv2.CC_STAT_AREA])
    x0, y0 = x * step, y * step
    x1 = columns if x + width == right else (x + width) * step
    y1 = rows if y + height == down else (y + height) * step
    return Region(
        (x0, y0, x1 - x0, y1 - y0), breast, _foreign(labels, breast, _skin(grey, threshold, breast))
    )


def _step(image: Pixels) -> int:
    """Pixels of the image a pixel of its decimated copy."""
    return int(-(-max(image.shape) // DECIMATED))


def _skin(grey: NDArray[np.uint8], threshold: float, breast: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The breast with its faint tissue: Otsu's threshold once more, on what the first one called dark."""
    faint_from, _ = cv2.threshold(grey[grey <= threshold][None], 0, 1, cv2.THRESH_OTSU)
    faint = cv2.morphologyEx((grey > faint_from).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels = cv2.connectedComponents(faint, connectivity=8)
    shared = np.bincount(labels[breast], minlength=count)
    shared[0] = 0
    return np.asarray(labels == shared.argmax()) if shared.any() else breast


def _foreign(
    labels: NDArray[np.int32], breast: NDArray[np.bool_], skin: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    own = skin.astype(np.uint8)
    cv2.fillConvexPoly(own, cv2.convexHull(cv2.findNonZero(breast.astype(np.uint8))), 1)
    inside = np.bincount(labels[own > 0], minlength=labels.max() + 1)
    outside = np.bincount(labels[own == 0], minlength=labels.max() + 1)
    paint = (outside > inside) & (outside + inside > SMALLEST_LABEL * labels.size)
    paint[0] = False
    soft_edge = cv2.dilate(paint[labels].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.asarray(soft_edge & ~breast)


def prepare(
    image: Pixels,
    bits: int,
    chest_wall: Wall,
    size: int,
    boxes: Sequence[Box] = (),
    region: Region | None = None,
    background: Background = "keep",
) -> Prepared:
    """Sec. IV-A, readings 22 and 23. One image, cropped to its breast, turned and resized.

    A box is clipped to the crop; one that lies outside of it is left out, since the annotation, not
    the breast, is then at fault (mini-MIAS mdb212): compare the number of boxes to learn of it.

    Args:
        image: `(rows, columns)`, stored values of `bits` bits.
        bits: depth of the stored values, 8 to 16.
        chest_wall: where it stands in `image`; turned to the left where it is on the right.
        size: side of the result in pixels.
        boxes: lesions in pixels of `image`.
        region: cut and paint out this instead of what `find_breast` finds: the counterfactual as its target.
        background: "keep" keeps the breast's faint pixels in its box, "mask" keeps only the component.

    Raises:
        UnreadableImageError: no breast is found, values exceed `bits`, or the chest wall stands on
            the other side: the laterality is wrong or the film was turned.
    """
    found = region or find_breast(image, bits)
    _check_wall(found.breast, chest_wall)
    x0, y0, width, height = found.crop
    pixels = to_uint8(image[y0 : y0 + height, x0 : x0 + width], bits)

    dark = found.foreign if background == "keep" else ~found.breast
    if dark.any():
        step = _step(image)
        row, column = (
            np.minimum(np.arange(start, start + length) // step, most - 1)
            for start, length, most in zip((y0, x0), (height, width), dark.shape, strict=True)
        )
        pixels = cv2.copyTo(pixels, np.asarray(~dark, np.uint8).take(column, 1).take(row, 0))

    square = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    if chest_wall == "right":
        square = np.ascontiguousarray(square[:, ::-1])
    mapped = (to_cached(box, found.crop, chest_wall, size) for box in boxes)
    return Prepared(square, found.crop, tuple(box for box in mapped if box is not None))


def _check_wall(breast: NDArray[np.bool_], chest_wall: Wall) -> None:
    longer = _longer_on_the_left(breast)
    if (longer if chest_wall == "right" else -longer) > WRONG_WAY:
        raise UnreadableImageError(
            f"the chest wall must stand on the {chest_wall} of the film but stands opposite: "
            "its laterality is wrong or it was turned",
            Reason.WRONG_SIDE,
        )


def to_cached(box: Box, crop: Crop, chest_wall: Wall, size: int) -> Box | None:
    """A box in pixels of the source image in pixels of the cached one, clipped; None if it lies outside."""
    x0, y0, width, height = crop
    left, right = ((x - x0) * size / width for x in (box[0], box[2]))
    top, bottom = ((y - y0) * size / height for y in (box[1], box[3]))
    if chest_wall == "right":
        left, right = size - right, size - left
    clipped = max(left, 0.0), max(top, 0.0), min(right, float(size)), min(bottom, float(size))
    return clipped if clipped[0] < clipped[2] and clipped[1] < clipped[3] else None


def to_source(box: Box, crop: Crop, chest_wall: Wall, size: int) -> Box:
    """The inverse of `to_cached`: a box on the cached image in pixels of the source image."""
    x0, y0, width, height = crop
    left, right = (size - box[2], size - box[0]) if chest_wall == "right" else (box[0], box[2])
    return (
        x0 + left * width / size,
        y0 + box[1] * height / size,
        x0 + right * width / size,
        y0 + box[3] * height / size,
    )


def chest_wall_of(region: Region) -> Wall:
    """Where the chest wall stands as the breast's shape tells: on the side where its edge is longer."""
    return "left" if _longer_on_the_left(region.breast) > 0 else "right"


def _longer_on_the_left(breast: NDArray[np.bool_]) -> float:
    """How much longer the breast's edge is on its left than on its right, as a share of its height."""
    columns = np.flatnonzero(breast.any(0))
    inside = breast[breast.any(1), columns[0] : columns[-1] + 1]
    edge = max(1, inside.shape[1] // 20)
    return float(inside[:, :edge].mean() - inside[:, -edge:].mean())
