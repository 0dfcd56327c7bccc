"""Sec. IV-A. One way from a film's file to its pixels, for films of a data set and for films to predict.

A data set reads `Film`s with `read_image` and refuses a film whose DICOM tags contradict the stated side. A
pair to predict is opened with `open_pair`, which reads and prepares the same way but reports side and view of
the tags, so that the caller can warn. It runs in a process with limits (`cgn.data.reading.workers`) and does
not import torch.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

from cgn.data import breast
from cgn.data.boxes import Box
from cgn.data.breast import Laterality, PreparedImage, Preprocessing, Wall
from cgn.data.reading import dicom, grey, raster
from cgn.data.records import RawImage, Rejection, attributed_to, rejected
from cgn.errors import Reason, UnreadableImageError


@dataclass(frozen=True)
class Film:
    """A mammogram in a file.

    Attributes:
        content: a DICOM, PNG, PGM or TIFF file: its path, or its bytes.
        side: L or R, if it is known; tags of a DICOM file may say it too.
        view: e.g. MLO, likewise.
        bits: of a value, if fewer than a PNG, PGM or TIFF file stores; a DICOM file states its own.
        chest_wall: where it is in the image; None takes it from the breast's shape.
    """

    content: Path | bytes
    side: Laterality | None = None
    view: str | None = None
    bits: int | None = None
    chest_wall: Wall | None = None


# ------------------------------------------------------------------------------------- films of a data set


def read_image(film: Film, options: dicom.DicomOptions = dicom.AS_STORED) -> RawImage:
    """The stored pixels of a film, whose content must be a path.

    Raises:
        UnreadableImageError: the file cannot be used, its tags contradict `film.side`, or it stores fewer
            than `film.bits` bits.
    """
    path = _path(film)
    if _is_dicom(path):
        pixels, bits = dicom.read(path, laterality=film.side, options=options)
        return RawImage(pixels, bits, film.chest_wall)
    pixels, depth = raster.read(path)
    bits = film.bits or grey.used_bits(int(pixels.max(initial=0)), depth)
    if bits > depth:
        raise UnreadableImageError(f"the film must have {bits} bits as stated but has {depth}", Reason.DEPTH)
    return RawImage(pixels, bits, film.chest_wall)


def _path(film: Film) -> Path:
    if not isinstance(film.content, Path):
        raise TypeError("a film must be a file to be read but is bytes: use FilmPair.on_disk first")
    return film.content


def _is_dicom(path: Path) -> bool:
    """By content; a file that is named .dcm is read as DICOM unless it is another kind of image."""
    try:
        if not path.is_file() and path.exists():
            raise UnreadableImageError("a film must be a regular file", Reason.UNREADABLE)
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise UnreadableImageError(f"cannot read the file: {error.strerror}", Reason.UNREADABLE) from None
    named_dicom = path.suffix.lower() == ".dcm" and not raster.has_signature(start)
    return start[128:] == b"DICM" or named_dicom


# ----------------------------------------------------------------------------------------- pairs to predict


@dataclass(frozen=True)
class FilmPair:
    """The film to predict, the film of the other breast, and a name that the caller chooses."""

    target: Film
    reference: Film
    pair_id: str = ""
    films: ClassVar[tuple[str, str]] = ("", "")

    @classmethod
    def of(
        cls,
        target: Path | bytes,
        reference: Path | bytes,
        side: Laterality | None = None,
        view: str | None = None,
    ) -> "FilmPair":
        """A pair from two files or their bytes; `side` is the target's."""
        return cls(Film(target, side, view), Film(reference, view=view))

    def on_disk(self, folder: Path) -> "FilmPair":
        """The same pair with files in this folder in place of bytes."""

        def written(film: Film, path: Path) -> Film:
            if isinstance(film.content, Path):
                return film
            path.write_bytes(film.content)
            return replace(film, content=path)

        target, reference = folder / "target", folder / "reference"
        return replace(
            self, target=written(self.target, target), reference=written(self.reference, reference)
        )


class OpenedFilm(NamedTuple):
    """A film that was opened and prepared.

    Attributes:
        prepared: the 8-bit image.
        side, view: as the tags say; None if they do not say it.
    """

    prepared: PreparedImage
    side: Laterality | None
    view: str | None

    @property
    def chest_wall(self) -> Wall:
        """Where it is in the source image."""
        return self.prepared.chest_wall

    def to_source(self, box: Box) -> Box:
        """Converts a box from the prepared image to the source image, in pixels."""
        image = self.prepared
        return breast.to_source(box, image.crop, image.chest_wall, image.pixels.shape[0])


class OpenedPair(NamedTuple):
    """Both films of a pair."""

    target: OpenedFilm
    reference: OpenedFilm


def open_pair(
    pair: FilmPair, preprocessing: Preprocessing, options: dicom.DicomOptions = dicom.AS_STORED
) -> OpenedPair | Rejection:
    """Sec. IV-A. Opens and prepares both films, or says which film cannot be used and why.

    Args:
        pair: on disk.
        preprocessing: as for the cache that the model was trained on.
        options: likewise.
    """
    try:
        with attributed_to("target"):
            target = open_film(pair.target, preprocessing, options)
        with attributed_to("reference"):
            return OpenedPair(target, open_film(pair.reference, preprocessing, options))
    except UnreadableImageError as error:
        return rejected(pair, error.reason, str(error), error.role)


def open_film(film: Film, preprocessing: Preprocessing, options: dicom.DicomOptions) -> OpenedFilm:
    """Sec. IV-A. Opens and prepares one film, as `cgn.data.preparation` prepares those of a cache.

    Raises:
        UnreadableImageError: the film cannot be used.
    """
    path = _path(film)
    header = dicom.read_header(path) if _is_dicom(path) else None
    image = read_image(replace(film, side=None), options)  # a contradicting side is reported, not refused
    prepared = breast.prepare(*image, preprocessing.size, background=preprocessing.background)
    return OpenedFilm(prepared, header and header.laterality, header and header.view)
