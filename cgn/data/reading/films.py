"""Sec. IV-A. One way from a film's file to its pixels, for films of a data set and for films to predict.

A data set reads two `Film`s with `read_pair`, or a healthy one with `read_film`, and refuses a film whose
DICOM tags contradict its side or view. A pair to predict is opened with `open_pair`, which reads and prepares
the same way but reports side and view of the tags, so that the caller can warn. It runs in a process with
limits (`cgn.data.reading.workers`) and does not import torch.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

from cgn.data import breast
from cgn.data.boxes import Box
from cgn.data.breast import Laterality, PreparedImage, Preprocessing, Wall
from cgn.data.reading import dicom, grey, raster
from cgn.data.records import RawImage, RawPair, Rejection, attributed_to, rejected
from cgn.errors import Reason, UnreadableImageError


@dataclass(frozen=True)
class Film:
    """A mammogram in a file.

    Attributes:
        content: a DICOM, PNG, PGM or TIFF file: its path, or its bytes.
        side: L or R, if it is known; tags of a DICOM file may say it too.
        view: e.g. MLO, likewise.
        bits: of a value, if fewer than a PNG, PGM or TIFF file stores; a DICOM file states its own.
        view_in_tags: another name that tags of this collection may have for the view.
        chest_wall: where it is in the image; None takes it from the breast's shape.
    """

    content: Path | bytes
    side: Laterality | None = None
    view: str | None = None
    bits: int | None = None
    chest_wall: Wall | None = None
    view_in_tags: str | None = None


# ------------------------------------------------------------------------------------- films of a data set


def read_pair(target: Film, reference: Film, options: dicom.DicomOptions = dicom.AS_STORED) -> RawPair:
    """Sec. IV-A. The pixels of both films, whose contents must be paths. Their greys have one range.

    Raises:
        UnreadableImageError: a file cannot be used, its tags contradict `side` or `view`, it stores fewer
            bits than stated, or the greys of the films cannot be compared.
    """
    target_path, reference_path = _path(target), _path(reference)
    with attributed_to("target"):
        target_values = _grey_values(target, target_path, options)
    with attributed_to("reference"):
        values = target_values, _grey_values(reference, reference_path, options)
    target_image, reference_image = (
        RawImage(*pixels, film.chest_wall)
        for pixels, film in zip(grey.in_one_range(values), (target, reference), strict=True)
    )
    return RawPair(target_image, reference_image)


def read_film(film: Film, options: dicom.DicomOptions = dicom.AS_STORED) -> RawImage:
    """Sec. IV-A. The pixels of one film. Its content must be a path.

    Raises:
        UnreadableImageError: as `read_pair`.
    """
    (pixels,) = grey.in_one_range([_grey_values(film, _path(film), options)])
    return RawImage(*pixels, film.chest_wall)


def _grey_values(film: Film, path: Path, options: dicom.DicomOptions) -> grey.GreyValues:
    if _is_dicom(path):
        views = {view for view in (film.view, film.view_in_tags) if view}
        return dicom.read_values(path, laterality=film.side, views=views, options=options)
    pixels, depth = raster.read(path)
    if film.bits is None:
        return grey.GreyValues(pixels, depth, low=0, high=int(pixels.max(initial=0)))
    if film.bits > depth:
        raise UnreadableImageError(
            f"the film must have {film.bits} bits as stated but has {depth}", Reason.DEPTH
        )
    return grey.GreyValues(pixels, film.bits, low=0, high=2**film.bits - 1)


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
    target, reference = (  # contradicting tags are reported, not refused
        replace(film, side=None, view=None) for film in (pair.target, pair.reference)
    )
    try:
        images = read_pair(target, reference, options)
        with attributed_to("target"):
            opened = _opened(target, images.target, preprocessing)
        with attributed_to("reference"):
            return OpenedPair(opened, _opened(reference, images.reference, preprocessing))
    except UnreadableImageError as error:
        return rejected(pair, error.reason, str(error), error.role)


def _opened(film: Film, image: RawImage, preprocessing: Preprocessing) -> OpenedFilm:
    """Sec. IV-A. Prepares a film as `cgn.data.preparation` prepares those of a cache, and reads its tags."""
    path = _path(film)
    header = dicom.read_header(path) if _is_dicom(path) else None
    prepared = breast.prepare(*image, preprocessing.size, background=preprocessing.background)
    return OpenedFilm(prepared, header and header.laterality, header and header.view)
