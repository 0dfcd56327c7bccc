"""What stored values mean: polarity, padding, and the brightness of windows and look-up tables (DICOM)."""

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from cgn.data.breast import StoredPixels
from cgn.errors import Reason, UnreadableImageError

DEPTHS = 8, 10, 12, 14
"""Bits to which values are taken to belong if they leave unused at least `UNUSED` bits of those stated."""

UNUSED = 4


def in_range(stored: NDArray[Any], bits: int) -> NDArray[Any]:
    """Decoded values, of which signed ones are extended from `bits`; bits beyond are not cut off.

    Raises:
        UnreadableImageError: a value needs more than `bits`.
    """
    signed, allocated = stored.dtype.kind == "i", 8 * stored.dtype.itemsize
    whole = stored.astype(np.int32) & (2**allocated - 1)
    fits = whole < 2**bits
    if signed:
        fits |= (stored >= -(2 ** (bits - 1))) & (stored < 2 ** (bits - 1))
    if not fits.all():
        raise UnreadableImageError(
            f"stored values must fit into the {bits} bits that the header states but exceed them",
            Reason.DEPTH,
        )
    if not signed:
        return stored
    shift = allocated - bits
    return np.asarray(np.left_shift(stored, shift) >> shift)


def used_bits(highest: int, bits: int) -> int:
    """The bits that values up to `highest` use: fewer than stated for 12-bit values in a 16-bit file."""
    return next((depth for depth in DEPTHS if highest < 2**depth and depth <= bits - UNUSED), bits)


def as_pixels(
    stored: NDArray[Any], dataset: Dataset, bits: int, *, voi: bool, negative: bool
) -> tuple[StoredPixels, int]:
    """Values from 0, bright is dense, padding is 0; and their bits, 16 after a VOI LUT or window.

    Args:
        stored: values as decoded.
        dataset: their tags.
        bits: of a stored value.
        voi: apply the first VOI LUT or window; without one, the stored range is used.
        negative: the lowest brightness is shown white.

    Raises:
        UnreadableImageError: the slope, window or table says no brightness.
    """
    padding = _padding(dataset, stored)
    lowest = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    values = _modality(dataset, np.arange(lowest, lowest + 2**bits))
    if voi and (table := _voi_table(dataset, values)) is not None:  # it applies the slope by itself
        pixels, bits = table[stored.astype(np.int32) - lowest], 16
    else:
        pixels, bits = _stored_range(stored, lowest, bits, padding)
        negative ^= bool(values[-1] < values[0])
    if negative:
        pixels = np.subtract(2**bits - 1, pixels, dtype=pixels.dtype)
    if padding is not None:
        pixels[padding] = 0
    return cast(StoredPixels, np.ascontiguousarray(pixels, np.uint8 if bits == 8 else np.uint16)), bits


def _stored_range(
    stored: NDArray[Any], lowest: int, bits: int, padding: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], int]:
    """Values from 0, and the bits that the measured ones use."""
    used = bits
    if lowest and bits > 8 and stored.min() >= 0:
        lowest, used = 0, bits - 1  # no value has the sign
    pixels = (stored if lowest == 0 else stored.astype(np.int32) - lowest).astype(np.uint16)
    measured = pixels if padding is None else pixels[~padding]
    return pixels, min(used, used_bits(int(measured.max(initial=0)), bits))


def _padding(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """PS3.3 C.7.5.1.1.2. Pixels without measured tissue, by stored value; None if no padding is declared."""
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None or limit == "" else limit)))
    return np.asarray((stored >= low) & (stored <= high))


def _modality(dataset: Dataset, stored: NDArray[np.int64]) -> NDArray[np.float64]:
    """PS3.3 C.11.1. Stored values by the modality LUT, or by slope and intercept."""
    if luts := dataset.get("ModalityLUTSequence"):
        return _looked_up(stored.astype(np.float64), luts[0])[0]
    slope, intercept = _first(dataset, "RescaleSlope"), _first(dataset, "RescaleIntercept")
    if slope is None or intercept is None:
        return stored.astype(np.float64)
    if slope == 0 or not (math.isfinite(slope) and math.isfinite(intercept)):
        raise UnreadableImageError(
            f"a rescale slope must be finite and not 0, its intercept finite, but they are {slope:g} and "
            f"{intercept:g}",
            Reason.WINDOW,
        )
    return stored.astype(np.float64) * slope + intercept


def _voi_table(dataset: Dataset, values: NDArray[np.float64]) -> NDArray[np.uint16] | None:
    """PS3.3 C.11.2. 16-bit brightness of every stored value; None without a VOI LUT or window."""
    if luts := dataset.get("VOILUTSequence"):
        outputs, top = _looked_up(values, luts[0])
        bright = outputs / top
    elif (centre := _first(dataset, "WindowCenter")) is not None:
        function = _text(dataset, "VOILUTFunction") or "LINEAR"
        width = _first(dataset, "WindowWidth")
        if width is None or not _is_window(centre, width, function):
            raise UnreadableImageError(
                "a window must have a finite centre and a width of 1 or more (above 0 if it is not LINEAR) "
                f"but the width is {'missing' if width is None else f'{width:g}'}",
                Reason.WINDOW,
            )
        bright = _window(values, centre, width, function)
    else:
        return None
    return np.asarray(np.round(np.clip(bright, 0, 1) * 65535), np.uint16)


def _looked_up(values: NDArray[np.float64], item: Dataset) -> tuple[NDArray[np.float64], int]:
    """PS3.3 C.11.1.1 and C.11.2.1.1. Values by a look-up table, and the highest output of its bits."""
    entries, first, depth = (int(v) for v in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) == (entries or 2**16) else "<u2")
    lut = np.asarray(data, np.float64)
    if not 8 <= depth <= 16 or not lut.size or lut.max() >= 2**depth:
        raise UnreadableImageError(
            f"a look-up table must have entries of the 8 to 16 bits that it states but states {depth}",
            Reason.WINDOW,
        )
    outputs = lut[np.clip(values - first, 0, len(lut) - 1).astype(np.int64)]
    return outputs, 2 ** used_bits(int(lut.max()), depth) - 1


def _is_window(centre: float, width: float, function: str) -> bool:
    finite = math.isfinite(centre) and math.isfinite(width)
    return finite and (width > 0 if function in ("SIGMOID", "LINEAR_EXACT") else width >= 1)


def _window(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3. Brightness; below 0 and above 1 outside of the window."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if width == 1:
        return np.where(values <= centre - 0.5, 0.0, 1.0)
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def _first(dataset: Dataset, tag: str) -> float | None:
    value = dataset.get(tag)
    if value is None or value == "":
        return None
    return float(value if isinstance(value, int | float | str) else value[0])


def _text(dataset: Dataset, tag: str) -> str | None:
    value = dataset.get(tag)
    return (str(value).strip() or None) if value is not None else None
