"""What stored values mean: polarity, padding, windows, look-up tables; one range for the films of a pair."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from cgn.data.breast import StoredPixels
from cgn.errors import Reason, UnreadableImageError

DEPTHS = 8, 10, 12, 14
"""Bits to which values are taken to belong if they leave unused at least `UNUSED` bits of those stated."""

UNUSED = 4

FARTHEST = 4
"""How far below 0 values may reach, against the highest: farther, and the range above 0 is almost flat."""


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


class GreyValues(NamedTuple):
    """The values of a film before they get the range that they share with the other film of the pair.

    Attributes:
        values: `(rows, columns)`; the lowest may be dark or bright.
        bits: of a value, as stated.
        low, high: the extremes that decide about bits without use; padding is not one of them.
        signed: values may be negative.
        negative: the lowest value is white.
        padding: pixels without measured tissue; None if none are declared.
        by_window: values are the brightness of a window or look-up table; None where no film has one.
    """

    values: NDArray[Any]
    bits: int
    low: int
    high: int
    signed: bool = False
    negative: bool = False
    padding: NDArray[np.bool_] | None = None
    by_window: bool | None = None

    @property
    def used_bits(self) -> int:
        """The bits that values from 0 on use."""
        return min(self._unsigned_bits, used_bits(self.high, self.bits))

    @property
    def _unsigned_bits(self) -> int:
        return max(8, self.bits - 1) if self.signed else self.bits

    def pixels(self, lowest: int, bits: int) -> tuple[StoredPixels, int]:
        """Values from 0, which `lowest` becomes, and their bits. Bright is dense, padding is 0."""
        values = self.values
        if lowest or self.low < 0:
            values = np.maximum(values.astype(np.int32) - lowest, 0)
        pixels = values.astype(np.uint16)
        if self.negative:
            pixels = np.subtract(2**bits - 1, pixels, dtype=np.uint16)
        if self.padding is not None:
            pixels[self.padding] = 0
        return cast(StoredPixels, np.ascontiguousarray(pixels, np.uint8 if bits == 8 else np.uint16)), bits


def in_one_range(films: Sequence[GreyValues]) -> list[tuple[StoredPixels, int]]:
    """Pixels and bits of films that are compared: bits without use are those that no film uses.

    0 is black, also in signed films, whose negative values are cut off if they are few against the rest. If
    they reach far below 0, the lowest value of the narrowest signed range that holds all is black.

    Raises:
        UnreadableImageError: the films' greys cannot be compared.
    """
    if {True, False} <= {film.by_window for film in films}:
        raise UnreadableImageError(
            "both films of a pair must have a window or look-up table, or neither, but one has none",
            Reason.WINDOW,
        )
    low, high = min(film.low for film in films), max(film.high for film in films)
    if -low <= (high - low) >> UNUSED:
        used = max(film.used_bits for film in films)
        return [film.pixels(0, min(film.bits, used)) for film in films]
    if not all(film.signed for film in films):
        raise UnreadableImageError(
            f"values must not be negative beside a film of unsigned values but reach {low}", Reason.DEPTH
        )
    if -low > FARTHEST * max(high, 0):
        raise UnreadableImageError(
            f"values must not lie mostly below 0 but reach from {low} to {high}: if the lowest is padding, "
            "declare it by PixelPaddingValue",
            Reason.DEPTH,
        )
    depth = max(8, 1 + max(high, -low - 1).bit_length())
    signed_bits = [min(film.bits, depth) for film in films]
    return [film.pixels(-(2 ** (bits - 1)), bits) for film, bits in zip(films, signed_bits, strict=True)]


def grey_values(
    stored: NDArray[Any], dataset: Dataset, bits: int, *, voi: bool, negative: bool
) -> GreyValues:
    """The grey values of a DICOM film.

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
    signed = bool(dataset.PixelRepresentation)
    lowest = -(2 ** (bits - 1)) if signed else 0
    values = _modality(dataset, np.arange(lowest, lowest + 2**bits))
    if voi and (brightness := _brightness(dataset, values)) is not None:  # it applies the slope by itself
        table, bits, high = brightness
        looked_up = table[stored.astype(np.int32) - lowest]
        return GreyValues(looked_up, bits, 0, high, negative=negative, padding=padding, by_window=True)
    measured = stored if padding is None else stored[~padding]
    return GreyValues(
        stored,
        bits,
        low=int(measured.min(initial=0)),
        high=int(measured.max(initial=0)),
        signed=signed,
        negative=negative ^ bool(values[-1] < values[0]),
        padding=padding,
        by_window=False if voi else None,
    )


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


def _brightness(dataset: Dataset, values: NDArray[np.float64]) -> tuple[NDArray[np.uint16], int, int] | None:
    """PS3.3 C.11.2. The brightness of every stored value, its bits, and the highest one that the table gives.

    None without a VOI LUT or window.
    """
    if luts := dataset.get("VOILUTSequence"):
        outputs, bits, highest = _looked_up(values, luts[0])
        return outputs.astype(np.uint16), bits, highest
    if (centre := _first(dataset, "WindowCenter")) is None:
        return None
    function = _text(dataset, "VOILUTFunction") or "LINEAR"
    width = _first(dataset, "WindowWidth")
    if width is None or not _is_window(centre, width, function):
        raise UnreadableImageError(
            "a window must have a finite centre and a width of 1 or more (above 0 if it is not LINEAR) "
            f"but the width is {'missing' if width is None else f'{width:g}'}",
            Reason.WINDOW,
        )
    bright = np.clip(_window(values, centre, width, function), 0, 1)
    return np.asarray(np.round(bright * 65535), np.uint16), 16, 65535


def _looked_up(values: NDArray[np.float64], item: Dataset) -> tuple[NDArray[np.float64], int, int]:
    """PS3.3 C.11.1.1 and C.11.2.1.1. Values by a look-up table, the bits of its entries, and the highest."""
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
    return outputs, depth, int(lut.max())


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
