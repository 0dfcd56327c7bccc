import struct

import cv2
import numpy as np
import pytest

from cgn.data.reading import raster
from cgn.errors import Reason, UnreadableImageError

IMAGE = np.arange(48).reshape(6, 8)


@pytest.mark.parametrize("suffix", raster.SUFFIXES)
@pytest.mark.parametrize(("kind", "bits"), [(np.uint8, 8), (np.uint16, 16)])
def test_grey_values_are_returned_as_stored(tmp_path, suffix, kind, bits):
    path = tmp_path / f"film{suffix}"
    image = (IMAGE * (2**bits // 64)).astype(kind)
    cv2.imwrite(str(path), image)
    pixels, depth = raster.read(path)
    assert depth == bits
    assert pixels.dtype == kind
    assert (pixels == image).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (b"P5\n4 2\n255\n1234567", Reason.TRUNCATED),
        (b"II*\0\xff\xff\0\0", Reason.TRUNCATED),
        (b"DICM", Reason.TRUNCATED),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 20 + b"IEND\xaeB`\x82", Reason.NOT_AN_IMAGE),
        (b"P5\n0 0\n255\n", Reason.NOT_AN_IMAGE),
        (b"P5\n2 2\n4095\n\x0f\xff\x10\x00\0\0\0\0", Reason.DEPTH),
        (b"P5\n" + b"9" * 5000 + b" 2\n255\n1234", Reason.TRUNCATED),
        (b"P5\n2 2\n" + b"9" * 5000 + b"\n1234", Reason.TRUNCATED),
        (b"P5\n2 2\n0\n1234", Reason.NOT_AN_IMAGE),
    ],
)
def test_files_that_are_no_image_have_a_reason(tmp_path, content, reason):
    path = tmp_path / "anna.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError) as caught:
        raster.read(path)
    assert caught.value.reason is reason
    assert "anna" not in str(caught.value)


def test_floats_are_no_grey_values(tmp_path):
    path = tmp_path / "film.tif"
    cv2.imwrite(str(path), IMAGE.astype(np.float32))
    with pytest.raises(UnreadableImageError, match="no grey image of 8 or 16 bits"):
        raster.read(path)


def test_the_message_for_a_missing_file_names_no_path(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"^cannot read the file: No such file or directory$"):
        raster.read(tmp_path / "anna.png")


def tiff(image, photometric, order):
    """An uncompressed TIFF file; cv2 writes no photometric interpretation but 1."""
    rows, columns = image.shape
    data = image.astype(image.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: columns,
        257: rows,
        258: 8 * image.itemsize,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: rows,
    }
    entries = [(tag, 3, struct.pack(order + "HH", value, 0)) for tag, value in tags.items()]
    entries.append((279, 4, struct.pack(order + "I", len(data))))
    directory = b"".join(struct.pack(order + "HHI", tag, kind, 1) + value for tag, kind, value in entries)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    start = magic + struct.pack(order + "I", 8 + len(data))
    return start + data + struct.pack(order + "H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_tiff_whose_zero_is_white_is_inverted(tmp_path, kind, order):
    image, path = IMAGE.astype(kind), tmp_path / "film.tif"
    path.write_bytes(tiff(image, 1, order))
    assert (raster.read(path)[0] == image).all()
    path.write_bytes(tiff(image, 0, order))
    assert (raster.read(path)[0] == np.iinfo(kind).max - image).all()


@pytest.mark.parametrize(("highest", "bits"), [(255, 8), (1023, 10), (4095, 12), (65535, 16)])
def test_the_highest_value_of_a_pgm_decides_its_bits(tmp_path, highest, bits):
    path, image = tmp_path / "film.pgm", (IMAGE * (highest // 47)).astype(np.uint16)
    data = image.astype(np.uint8 if bits == 8 else ">u2").tobytes()
    path.write_bytes(b"P5\n# a comment\n8 6\n%d\n" % highest + data)
    pixels, depth = raster.read(path)
    assert depth == bits
    assert (pixels == image).all()


def test_a_pgm_whose_white_is_no_power_of_two_is_scaled(tmp_path):
    path = tmp_path / "film.pgm"
    path.write_bytes(b"P5\n2 1\n1000\n" + np.array([1000, 700], ">u2").tobytes())
    pixels, bits = raster.read(path)
    assert (bits, pixels.tolist()) == (10, [[1023, 716]])
