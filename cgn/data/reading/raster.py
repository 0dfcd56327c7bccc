"""PNG, PGM and TIFF films: grey values of 8 or 16 bits."""

import re
import struct
from pathlib import Path

import cv2
import numpy as np

from cgn.data.breast import StoredPixels
from cgn.errors import Reason, UnreadableImageError

SUFFIXES = (".png", ".pgm", ".tif", ".tiff")

PNG, TIFF = b"\x89PNG", (b"II*\0", b"MM\0*")
MAX_PIXELS = 2**26
"""Of an image; the largest mammograms have 2^25."""

PHOTOMETRIC = 262
"""The tag of a TIFF file that says whether 0 is white (0) or black (1)."""

GAP = rb"\s+(?:#[^\n]*\n\s*)*"
PGM = re.compile(rb"P5" + GAP + rb"(\d{1,9})" + GAP + rb"(\d{1,9})" + GAP + rb"(\d{1,5})\s")


def has_signature(content: bytes) -> bool:
    """Whether a file's first bytes are those of a PNG, PGM or TIFF file."""
    return content.startswith((PNG, *TIFF, b"P5"))


def read(path: Path) -> tuple[StoredPixels, int]:
    """Grey values `(rows, columns)`, and the bits in which the file stores them, 8 to 16.

    Raises:
        UnreadableImageError: no file, a truncated file, or no such image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"cannot read the file: {error.strerror}", Reason.UNREADABLE) from None
    if not _is_complete(content):
        raise UnreadableImageError(
            f"the file is truncated or no PNG, PGM or TIFF image: {len(content)} bytes", Reason.TRUNCATED
        )
    if header := PGM.match(content):
        return _pgm(content, header)
    try:
        flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # more pixels than OpenCV decodes
        pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise UnreadableImageError("the file holds no grey image of 8 or 16 bits", Reason.NOT_AN_IMAGE)
    if content.startswith(TIFF) and pixels.dtype == np.uint16 and _white_is_zero(content):
        pixels = 65535 - pixels  # OpenCV inverts 8 bits only
    return pixels, 8 * pixels.dtype.itemsize


def _pgm(content: bytes, header: re.Match[bytes]) -> tuple[StoredPixels, int]:
    """The values of a PGM file, in the bits that its highest value, which is white, needs: 8 or more."""
    columns, rows, highest = map(int, header.groups())
    if not (0 < rows * columns <= MAX_PIXELS and 0 < highest < 2**16):
        raise UnreadableImageError("the file holds no grey image of 8 or 16 bits", Reason.NOT_AN_IMAGE)
    kind = np.dtype(np.uint8 if highest < 256 else ">u2")
    pixels = np.frombuffer(content, kind, rows * columns, header.end()).reshape(rows, columns)
    if pixels.max() > highest:
        raise UnreadableImageError(
            f"values must not exceed the {highest} of the header but reach {pixels.max()}", Reason.DEPTH
        )
    bits = max(8, highest.bit_length())
    if highest != 2**bits - 1:
        pixels = np.round(pixels * ((2**bits - 1) / highest))
    return (pixels.astype(np.uint8) if bits == 8 else pixels.astype(np.uint16)), bits


def _white_is_zero(content: bytes) -> bool:
    """Whether the first directory of a TIFF file says that the lowest value is white."""
    order = "<" if content.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, directory)
    for number in range(min(count, (len(content) - directory - 2) // 12)):
        tag, _, _, value = struct.unpack_from(order + "HHIH", content, directory + 2 + 12 * number)
        if tag == PHOTOMETRIC:
            return int(value) == 0
    return False


def _is_complete(content: bytes) -> bool:
    """Whether the file is not truncated. Checked before decoding, since decoders print their own warnings."""
    if content.startswith(PNG):
        return b"IEND" in content[-16:]
    if content.startswith(TIFF) and len(content) > 8:
        (directory,) = struct.unpack("<I" if content.startswith(b"II") else ">I", content[4:8])
        return int(directory) + 2 <= len(content)
    header = PGM.match(content)
    if header is None:
        return False
    width, height, highest = map(int, header.groups())
    return len(content) - header.end() >= width * height * (1 if highest < 256 else 2)
