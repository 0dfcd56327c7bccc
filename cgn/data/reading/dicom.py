"""DICOM files: single-frame mammograms as stored values, with one typed error for all that can be wrong.

No other module reads DICOM. Nothing is decoded before the header is valid, and only the tags in `TAGS` are
parsed. Errors repeat no path and no value of a tag. A decoder written in C may still crash or hang on a
hostile file: `cgn.data.reading.workers` runs it in a process with limits.
"""

import logging
import stat
import struct
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import get_decoder

from cgn.data.breast import Laterality, StoredPixels, Wall
from cgn.data.reading import grey
from cgn.errors import Reason, UnreadableImageError

logging.getLogger("pydicom").propagate = False  # its messages repeat values of tags

MAX_BYTES = 2**28
"""Of a file; the largest mammograms have 2^26."""

MAX_PIXELS = 2**26
"""Of an image; the largest mammograms have 2^25."""

SYNTAXES = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.RLELossless: "pydicom",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "gdcm",
    uid.JPEG2000: "gdcm",
}
"""Transfer syntaxes, each with one plug-in of pydicom, so that a file gives the same pixels everywhere."""

TAGS = {
    "identity": ("PatientID", "StudyInstanceUID"),
    "side": (
        "Laterality",
        "ImageLaterality",
        "FrameLaterality",
        "ViewPosition",
        "ViewCodeSequence",
        "PatientOrientation",
    ),
    "image": (
        "Rows",
        "Columns",
        "NumberOfFrames",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
    ),
    "scale": (
        "RescaleSlope",
        "RescaleIntercept",
        "ModalityLUTSequence",
        "VOILUTSequence",
        "VOILUTFunction",
        "PresentationLUTShape",
        "WindowCenter",
        "WindowWidth",
    ),
}
"""All tags that are read besides the pixels. Only `Header` exposes the first group, for pseudonyms."""

VIEWS = {
    "399162004": "CC",
    "R-10242": "CC",
    "399368009": "MLO",
    "R-10226": "MLO",
    "399260004": "ML",
    "R-10224": "ML",
    "399352003": "LM",
    "R-10228": "LM",
    "399099002": "LMO",
    "R-10230": "LMO",
    "399196006": "FB",
    "R-10244": "FB",
    "399188001": "SIO",
    "R-102D0": "SIO",
    "441555000": "ISO",
    "R-40AAA": "ISO",
    "399192008": "XCCL",
    "R-1024A": "XCCL",
    "399101009": "XCCM",
    "R-1024B": "XCCM",
}
"""Codes of ViewCodeSequence (CID 4014, SNOMED CT and the older SRT) as values of ViewPosition."""

HANGING: dict[str, Laterality] = {"R": "L", "L": "R"}
"""The breast whose columns lead to this side: a mammogram hangs with its lateral side up."""


class DicomOptions(BaseModel):
    """How stored values become pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    range: Literal["stored", "voi"] = Field(
        "stored",
        description="stored: linear map of the stored range, as the paper; voi: the first VOI LUT or window",
    )


AS_STORED = DicomOptions()


class Header(NamedTuple):
    """The facts in a file's tags. `patient` and `study` identify a person: replace them by pseudonyms.

    Attributes:
        laterality: None if no tag says it.
        view: in upper case, otherwise as the tag has it; None if no tag says it.
        chest_wall: its side by PatientOrientation; None if that tag does not say it.
        patient, study: raw PatientID and StudyInstanceUID.
        rows, columns: of the image.
        bits: of a stored value.
        photometric: MONOCHROME1 or MONOCHROME2.
        negative: the lowest value is white, by MONOCHROME1 or PresentationLUTShape.
        turned: PatientOrientation says that the film is not upright, or contradicts its laterality.
    """

    laterality: Laterality | None
    view: str | None
    chest_wall: Wall | None
    patient: str | None
    study: str | None
    rows: int
    columns: int
    bits: int
    photometric: str
    negative: bool
    turned: bool


def read_header(path: Path) -> Header:
    """The facts in a file's tags; pixels are not read.

    Raises:
        UnreadableImageError: no DICOM file, or not a single grey image of bounded size.
    """
    with _boundary():
        return _header(_parse(path, pixels=False))


def read(path: Path, *, options: DicomOptions = AS_STORED) -> tuple[StoredPixels, int]:
    """Pixels `(rows, columns)` of a single film and their bits. Bright is dense, padding is 0.

    Raises:
        UnreadableImageError: the file cannot be used, for any reason.
    """
    return grey.in_one_range([read_values(path, options=options)])[0]


def read_values(
    path: Path,
    *,
    laterality: Laterality | None = None,
    views: Collection[str] = (),
    options: DicomOptions = AS_STORED,
) -> grey.GreyValues:
    """The grey values of a film.

    Args:
        path: of the film.
        laterality: the side that the film must have, unless its tags do not say it.
        views: names of the view that it must have, likewise; views of other names than `VIEWS` has are not
            compared.
        options: how stored values become pixels.

    Raises:
        UnreadableImageError: the file cannot be used, for any reason.
    """
    with _boundary():
        dataset = _parse(path, pixels=True)
        header = _header(dataset)
        _refuse_contradiction(header, laterality, {view.upper() for view in views})
        stored = _decode(dataset, header)
        return grey.grey_values(
            stored, dataset, header.bits, voi=options.range == "voi", negative=header.negative
        )


def _refuse_contradiction(header: Header, laterality: Laterality | None, views: Collection[str]) -> None:
    if header.turned:
        raise UnreadableImageError(
            "rows must run to the patient's front or back and columns down or to the other breast, but "
            "PatientOrientation says that the film is turned: turn it, and correct the tag",
            Reason.TURNED,
        )
    if laterality and header.laterality and laterality != header.laterality:
        raise UnreadableImageError(
            f"the film must be of side {laterality} but its tags say {header.laterality}",
            Reason.WRONG_SIDE,
        )
    known = frozenset(VIEWS.values())
    if header.view in known and known.intersection(views) and header.view not in views:
        raise UnreadableImageError(
            f"the film must be of view {' or '.join(sorted(views))} but its tags say {header.view}",
            Reason.WRONG_VIEW,
        )


# ------------------------------------------------------------------------------------------ the boundary


@contextmanager
def _boundary() -> Iterator[None]:
    """Convert every error to UnreadableImageError, and silence pydicom's warnings, which repeat tags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UnreadableImageError:
            raise
        except InvalidDicomError:
            raise UnreadableImageError("the file is no DICOM file", Reason.NOT_DICOM) from None
        except OSError as error:
            raise UnreadableImageError(f"cannot read the file: {error.strerror}", Reason.UNREADABLE) from None
        except EOFError:
            raise UnreadableImageError("the file ends too early", Reason.TRUNCATED) from None
        except MemoryError:
            raise UnreadableImageError(
                "the file needs more memory than is available", Reason.TOO_LARGE
            ) from None
        except Exception:  # a parser may raise anything on arbitrary input
            raise UnreadableImageError(
                "tags and pixels must be decodable but are damaged or contradict each other: "
                "export the film again",
                Reason.UNDECODABLE,
            ) from None


def _parse(path: Path, pixels: bool) -> Dataset:
    """The allowed tags of a file. The transfer syntax comes first, since parsing inflates a deflated file."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("a film must be a regular file", Reason.UNREADABLE)
    if status.st_size > MAX_BYTES:
        raise UnreadableImageError(
            f"a film must have at most {MAX_BYTES} bytes but has {status.st_size}", Reason.TOO_LARGE
        )
    syntax = read_file_meta_info(path).get("TransferSyntaxUID")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        raise UnreadableImageError("deflated files are not read: inflate the file first", Reason.DEFLATED)
    if syntax not in SYNTAXES:
        name = uid.UID(syntax).name if _is_known(syntax) else "the file's transfer syntax"
        raise UnreadableImageError(
            f"{name} is not read: convert the file to JPEG 2000 lossless", Reason.TRANSFER_SYNTAX
        )
    wanted = [tag for group in TAGS.values() for tag in group] + (["PixelData"] if pixels else [])
    return cast(Dataset, dcmread(path, stop_before_pixels=not pixels, specific_tags=wanted))


def _is_known(syntax: Any) -> bool:
    return isinstance(syntax, str) and syntax in uid.UID_dictionary


# -------------------------------------------------------------------------------------------- the header


def _header(dataset: Dataset) -> Header:
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    if not rows or not columns:
        raise UnreadableImageError("the file holds no image", Reason.NOT_AN_IMAGE)
    if rows * columns > MAX_PIXELS:
        raise UnreadableImageError(
            f"a film must have at most {MAX_PIXELS} pixels but has {rows} x {columns}", Reason.TOO_LARGE
        )
    if (frames := _number(dataset, "NumberOfFrames", 1)) != 1:
        raise UnreadableImageError(f"a film must have one frame but has {frames}", Reason.MULTI_FRAME)
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
    if _number(dataset, "SamplesPerPixel", 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImageError("a film must be grey: MONOCHROME1 or MONOCHROME2", Reason.COLOUR)
    allocated, bits = _number(dataset, "BitsAllocated"), _number(dataset, "BitsStored")
    high, signed = _number(dataset, "HighBit", (bits or 0) - 1), _number(dataset, "PixelRepresentation")
    if allocated not in (8, 16) or bits is None or not 8 <= bits <= allocated or high != bits - 1:
        raise UnreadableImageError(
            f"a pixel must have 8 to 16 bits stored from bit 0 of 8 or 16 but has {bits} of {allocated} "
            f"up to bit {high}",
            Reason.DEPTH,
        )
    if signed not in (0, 1):
        raise UnreadableImageError(f"PixelRepresentation must be 0 or 1 but is {signed}", Reason.DEPTH)
    along, down = _orientation(dataset)
    side, opposite = _tagged_laterality(dataset), HANGING.get(down[-1:])
    return Header(
        laterality=side or opposite,
        view=_view(dataset),
        chest_wall={"A": "left", "P": "right"}.get(along),  # type: ignore[arg-type]
        patient=_text(dataset, "PatientID"),
        study=_text(dataset, "StudyInstanceUID"),
        rows=rows,
        columns=columns,
        bits=bits,
        photometric=photometric,
        negative=photometric == "MONOCHROME1" or _text(dataset, "PresentationLUTShape") == "INVERSE",
        turned=along not in ("", "A", "P") or down[:1] == "H" or bool(side and opposite and side != opposite),
    )


def _number(dataset: Dataset, tag: str, default: int | None = None) -> int | None:
    value = dataset.get(tag)
    return default if value is None or value == "" else int(value)


def _text(dataset: Dataset, tag: str) -> str | None:
    value = dataset.get(tag)
    return (str(value).strip() or None) if value is not None else None


def _tagged_laterality(dataset: Dataset) -> Laterality | None:
    for tag in ("ImageLaterality", "Laterality", "FrameLaterality"):
        side = (_text(dataset, tag) or "").upper()
        if side in ("L", "R"):
            return cast(Laterality, side)
    return None


def _view(dataset: Dataset) -> str | None:
    if position := _text(dataset, "ViewPosition"):
        return position.upper()
    for item in dataset.get("ViewCodeSequence") or ():
        if view := VIEWS.get(str(item.get("CodeValue", "")).strip()):
            return view
    orientation = (_text(dataset, "PatientOrientation") or "").upper()
    return orientation if orientation in VIEWS.values() else None  # as in CBIS-DDSM


def _orientation(dataset: Dataset) -> tuple[str, str]:
    """The directions of rows and columns in the patient, e.g. ("A", "FR"); empty if no tag says them."""
    value = dataset.get("PatientOrientation")
    if value is None or isinstance(value, str) or len(value) != 2:
        return "", ""
    along, down = (str(part).strip().upper() for part in value)
    return along[:1], down


# -------------------------------------------------------------------------------------------- the pixels


def _decode(dataset: Dataset, header: Header) -> NDArray[Any]:
    content = dataset.get("PixelData")
    if not content:
        raise UnreadableImageError("the file ends before its pixels", Reason.TRUNCATED)
    syntax = dataset.file_meta.TransferSyntaxUID
    raw = header.rows * header.columns * dataset.BitsAllocated // 8
    if not syntax.is_encapsulated and len(content) < raw:
        raise UnreadableImageError(
            f"the pixels must have {raw} bytes but have {len(content)}", Reason.TRUNCATED
        )
    if len(content) > 2 * raw + 2**16:
        raise UnreadableImageError(
            f"the pixels must have about {raw} bytes but have {len(content)}", Reason.TOO_LARGE
        )
    if syntax.is_encapsulated and syntax != uid.RLELossless:
        coded = _coded_size(get_frame(content, 0, number_of_frames=1))
        if coded != (header.rows, header.columns):  # a decoder allocates the coded size, however large
            raise UnreadableImageError(
                f"the image must have {header.rows} x {header.columns} pixels but its code stream has "
                f"{' x '.join(map(str, coded or ('no size',)))}",
                Reason.WRONG_SIZE,
            )
    array, _ = get_decoder(syntax).as_array(
        dataset, index=0, raw=True, decoding_plugin=SYNTAXES[syntax], correct_unused_bits=False
    )
    return grey.in_range(cast(NDArray[Any], array), header.bits)


def _coded_size(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 code stream declares; None if it declares none."""
    if stream[:4] == b"\xff\x4f\xff\x51":  # SIZ: the grid's far corner and its offset
        x1, y1, x0, y0 = struct.unpack_from(">4I", stream, 8)
        return y1 - y0, x1 - x0
    position = 2
    while stream[position : position + 1] == b"\xff":
        marker, length = struct.unpack_from(">BH", stream, position + 1)
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xF7):  # start of a frame
            return cast(tuple[int, int], struct.unpack_from(">HH", stream, position + 5))
        position += 2 + length
    return None
