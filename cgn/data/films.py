"""Two films as somebody hands them in: opened by content, prepared as for a cache, with what they tell.

What is told of a film is what a warning needs: its side and view, where its chest wall stands. A film is
opened in a process with limits (`cgn.data.workers`), which loads this module and no torch.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from cgn.data import breast, dicom, raster
from cgn.data.breast import Background, Crop, Laterality, Prepared, Wall
from cgn.data.datasets import blaming
from cgn.data.pairs import Box
from cgn.data.workers import Rejection, rejection
from cgn.errors import Reason, UnreadableImageError


@dataclass(frozen=True)
class Film:
    """A mammogram.

    Attributes:
        content: a DICOM, PNG, PGM or TIFF file: its path, or its bytes.
        side: L or R, where it is known; the tags of a DICOM file tell too.
        view: e.g. MLO, likewise.
        bits: of a value, if fewer than a PNG, PGM or TIFF file's.
        chest_wall: where it stands in the image; None leaves that to the breast's shape.
    """

    content: Path | bytes
    side: Laterality | None = None
    view: str | None = None
    bits: int | None = None
    chest_wall: Wall | None = None


@dataclass(frozen=True)
class FilmPair:
    """The film that is asked about, and that of the other breast. `pair_id` is whatever names the pair."""

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
        """Of two files or their bytes; `side` is the target's."""
        return cls(Film(target, side, view), Film(reference, view=view))

    def on_disk(self, folder: Path) -> "FilmPair":
        """The same with files in place of bytes."""

        def written(film: Film, path: Path) -> Film:
            if isinstance(film.content, Path):
                return film
            path.write_bytes(film.content)
            return replace(film, content=path)

        target, reference = folder / "target", folder / "reference"
        return replace(
            self, target=written(self.target, target), reference=written(self.reference, reference)
        )


class Seen(NamedTuple):
    """A film that was opened.

    Attributes:
        prepared: the 8-bit image, and the crop it was taken from.
        chest_wall: where it stands in the source image; `prepared` has it on the left.
        size: columns and rows of the source image.
        side, view: as the tags tell; None where they do not.
    """

    prepared: Prepared
    chest_wall: Wall
    size: tuple[int, int]
    side: Laterality | None
    view: str | None

    def to_source(self, box: Box) -> Box:
        """A box on the prepared image in pixels of the source image."""
        crop: Crop = self.prepared.crop
        return breast.to_source(box, crop, self.chest_wall, self.prepared.pixels.shape[0])


class SeenPair(NamedTuple):
    """Both films of a pair."""

    target: Seen
    reference: Seen


@dataclass(frozen=True)
class Preparation:
    """How the images of a cache were made; what is served must be made likewise.

    Attributes:
        size, background: see `cgn.data.breast.prepare`.
        range: see `cgn.data.dicom.DicomOptions`.
    """

    size: int
    background: Background = "keep"
    range: Literal["stored", "voi"] = "stored"


def open_pair(pair: FilmPair, preparation: Preparation) -> SeenPair | Rejection:
    """Sec. IV-A. Both films, or which of them cannot be used and why. Their content must be on disk."""
    opened = partial(_open, preparation=preparation)
    try:
        with blaming("target"):
            target = opened(pair.target)
        with blaming("reference"):
            return SeenPair(target, opened(pair.reference))
    except UnreadableImageError as error:
        return rejection(pair, error.reason, str(error), error.role)


def _open(film: Film, preparation: Preparation) -> Seen:
    path = film.content
    assert isinstance(path, Path)  # noqa: S101  (FilmPair.on_disk)
    side: Laterality | None = None
    view: str | None = None
    if _is_dicom(path):
        header = dicom.read_header(path)
        side, view = header.laterality, header.view
        pixels, bits = dicom.read(path, options=dicom.DicomOptions(range=preparation.range))
    else:
        pixels, depth = raster.read(path)
        bits = film.bits or depth
        if bits > depth:
            raise UnreadableImageError(f"the film was said to have {bits} bits but has {depth}", Reason.DEPTH)
    region = breast.find_breast(pixels, bits)
    wall = film.chest_wall or breast.chest_wall_of(region)
    prepared = breast.prepare(
        pixels, bits, wall, preparation.size, region=region, background=preparation.background
    )
    rows, columns = pixels.shape
    return Seen(prepared, wall, (columns, rows), side, view)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise UnreadableImageError(f"cannot read the file: {error.strerror}", Reason.UNREADABLE) from None
