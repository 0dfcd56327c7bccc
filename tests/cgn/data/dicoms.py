"""DICOM films of every transfer syntax that is read, with whatever is to be wrong with them."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from openjpeg.utils import encode_array
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

LOSSLESS = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "rle": uid.RLELossless,
    "jpeg lossless": uid.JPEGLossless,
    "jpeg lossless sv1": uid.JPEGLosslessSV1,
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg 2000": uid.JPEG2000Lossless,
}


def breast(side: str = "L", rows: int = 120, columns: int = 90, bits: int = 14, seed: int = 0) -> np.ndarray:
    """Half an ellipse with its chest wall on the left for a left breast, on the right for a right one."""
    row, column = np.mgrid[:rows, :columns]
    inside = (column / (0.7 * columns)) ** 2 + ((row - rows / 2) / (0.45 * rows)) ** 2 < 1
    grain = np.random.default_rng(seed).integers(0, 2 ** (bits - 5), (rows, columns))
    image = (np.where(inside, 2 ** (bits - 1), 0) + grain).astype(np.uint8 if bits == 8 else np.uint16)
    return np.ascontiguousarray(image[:, ::-1]) if side == "R" else image


def write(path: Path, stored: np.ndarray, syntax: str = "explicit", bits: int = 14, **tags: Any) -> Path:
    """A film of these stored values; a tag that is None is left out, others stand as given."""
    transfer = LOSSLESS[syntax]
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = transfer
    meta.MediaStorageSOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset = Dataset()
    dataset.file_meta = meta
    allocated = 8 * stored.dtype.itemsize
    little = stored.astype(stored.dtype.newbyteorder(">" if syntax == "big endian" else "<"))
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")  # first: padding is read by its sign
    facts: dict[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "Modality": "MG",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "ImageLaterality": "L",
        "ViewPosition": "MLO",
        "PatientID": "woman",
        "StudyInstanceUID": "1.2.3",
    }
    for name, value in (facts | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    if not transfer.is_encapsulated:
        dataset.PixelData = little.tobytes()
        dataset["PixelData"].VR = "OW" if allocated > 8 else "OB"
    elif syntax == "jpeg 2000":
        dataset.PixelData = encapsulate([encode_array(stored, bits_stored=bits)])
    elif syntax.startswith("jpeg lossless"):
        dataset.PixelData = encapsulate([_jpeg_lossless(stored, bits)])
    else:
        dataset.compress(transfer, stored, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _jpeg_lossless(stored: np.ndarray, bits: int) -> bytes:
    """ITU T.81, annex H, first predictor; all 17 categories have Huffman codes of 5 bits."""
    rows, columns = stored.shape
    values = stored.astype(np.int64)
    left = np.empty_like(values)
    left[:, 1:], left[1:, 0], left[0, 0] = values[:, :-1], values[:-1, 0], 2 ** (bits - 1)
    differences = (values - left + 2**15 - 1) % 2**16 - 2**15 + 1
    stream = "".join(map(_category, differences.ravel().tolist()))
    stream += "1" * (-len(stream) % 8)
    coded = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    table = struct.pack(">BHB16B17B", 0xC4, 19 + 17, 0, *(17 if n == 4 else 0 for n in range(16)), *range(17))
    frame = struct.pack(">BHBHHBBBB", 0xC3, 11, bits, rows, columns, 1, 1, 0x11, 0)
    scan = struct.pack(">BHBBBBBB", 0xDA, 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8\xff" + b"\xff".join([table, frame, scan]) + coded + b"\xff\xd9"


def _category(difference: int) -> str:
    size = abs(difference).bit_length()
    if size in (0, 16):
        return f"{size:05b}"
    return f"{size:05b}{difference if difference > 0 else difference + 2**size - 1:0{size}b}"
