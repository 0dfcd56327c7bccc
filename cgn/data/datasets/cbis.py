"""CBIS-DDSM (Lee et al. 2017): scanned films with a finding, DICOM, and tables with one row for each finding.

    <raw>/mass_case_description_train_set.csv and the other three, or some of them
    <raw>/.../Mass-Training_P_00001_LEFT_CC/.../*.dcm     the film
    <raw>/.../Mass-Training_P_00001_LEFT_CC_1/.../*.dcm   a cropped image and the mask of finding 1

The collection has no normal films. A reference exists only if both sides have a finding, so every reference
has a lesion of its own and the symmetric prior is weak; notes and counts say so. The official training and
test halves are joined, since folds are drawn by woman (reading 18). A woman is `P_00001`; the PatientID in
the files differs from film to film.
"""

import codecs
import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from cgn.data.boxes import Box
from cgn.data.breast import Laterality
from cgn.data.datasets import DatasetOptions, RawFile, Scan
from cgn.data.datasets._manifest_table import FilmRow
from cgn.data.datasets.manifest import ListedFilm, match_films, scan_films
from cgn.data.identity.pseudonym import open_pseudonyms
from cgn.data.reading import dicom
from cgn.data.reading.workers import Pool
from cgn.data.records import Rejection, rejected
from cgn.errors import NotADatasetError, UnreadableImageError

IMAGE = ("patient_id", "left or right breast", "image view")
"""The columns that together identify an image."""

COLUMNS = (*IMAGE, "abnormality id", "abnormality type", "pathology", "image file path")
PATHOLOGY = {"BENIGN": "benign", "BENIGN_WITHOUT_CALLBACK": "benign", "MALIGNANT": "malignant"}
SIDES: dict[str, Laterality] = {"LEFT": "L", "RIGHT": "R"}
COHORTS = {"mass": ("mass",), "mixed": ("mass", "calcification")}
PRIOR = "CBIS-DDSM has no normal films: every reference has a lesion of its own"
FOLDER = re.compile(r"(?:Mass|Calc)-(?:Training|Test)_P_\d{5}_(?:LEFT|RIGHT)_(?:CC|MLO)(?:_\d+)?")

DELIMITERS = ",", ";", "\t"
"""Between the cells of a table; programs that convert tables change it."""

NEARLY_THE_SAME, SAME_PROPORTIONS, LARGEST_SCALE = 0.04, 0.01, 2.0
"""By how much a mask's sides may differ from its film's, and, at another resolution, their ratio and scale.
The collection has both: masks of 4688 x 3088 for 4624 x 3056 pixels, and of 4386 x 1789 for 5041 x 2056."""

FindingRow = dict[str, str]
"""A row of a table: one finding."""


class Options(DatasetOptions):
    """CBIS-DDSM: films with a finding on both sides; every reference has a lesion of its own."""

    raw: Path = Field(description="folder with *_case_description_*_set.csv and, below it, the DICOM folders")
    cohort: Literal["mass", "mixed"] = Field(
        "mixed", description="mass: films with masses; mixed: with masses or calcifications"
    )


def scan(options: Options, size: int = 224) -> Scan:  # noqa: ARG001 - films have their own size
    """Every film whose other side has a finding too is a target; malignant if any of its findings is.

    Boxes are those of the masks that exist. Masks are annotations, so a scan decodes them.

    Raises:
        NotADatasetError: no folder, no table, or a table without its columns.
    """
    tables = [path for path in sorted(options.raw.glob("*case_description*.csv")) if not _is_hidden(path)]
    if not tables:
        raise NotADatasetError(f"no *_case_description_*_set.csv in {options.raw}: cbis needs its tables")
    downloads = Downloads(options.raw)
    findings = _findings_by_image(tables, COHORTS[options.cohort])
    films, missing = _films(findings, downloads)
    masks = {
        match.target: _masks(match.target, findings[match.target.row.image], downloads)
        for match in match_films(films)
        if match.reference
    }
    boxes, damaged = _boxes([mask for masks_of_film in masks.values() for mask in masks_of_film])
    base = scan_films(
        f"cbis-{options.cohort}",
        [_with_boxes(film, [boxes[mask] for mask in masks.get(film, ()) if mask in boxes]) for film in films],
        list(missing),
        tables,
    )
    pseudonyms = open_pseudonyms()
    files = (RawFile.of(mask.path, pseudonyms) for masks_of_film in masks.values() for mask in masks_of_film)
    notes = [*downloads.notes(), f"{damaged} masks cannot be read: their findings have no box"]
    return replace(
        base,
        files=(*base.files, *files),
        notes=(*base.notes, *(note for note in notes if not note.startswith("0 ")), PRIOR),
        also_missing=sum(missing.values()) - len(missing),
    )


# ---------------------------------------------------------------------------------------------- tables


def _findings_by_image(tables: Sequence[Path], kinds: Sequence[str]) -> dict[str, list[FindingRow]]:
    """The findings of these kinds by image, e.g. `P_00001_LEFT_CC`, which may have several."""
    images: dict[str, list[FindingRow]] = defaultdict(list)
    for path in tables:
        for row in _rows(path):
            findings = images["_".join(row[name] for name in IMAGE)]
            if row["abnormality type"] in kinds and row not in findings:  # a table may be there twice
                findings.append(row)
    return {image: findings for image, findings in images.items() if findings}


def _rows(path: Path) -> Iterator[FindingRow]:
    with io.StringIO(_text(path), newline="") as stream:
        header = stream.readline()
        stream.seek(0)
        reader = csv.DictReader(stream, delimiter=max(DELIMITERS, key=header.count))
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise NotADatasetError(
                f"{path} must have the columns {', '.join(COLUMNS)} but lacks {', '.join(lacking)}"
            )
        for row in reader:
            if row["pathology"] not in PATHOLOGY or row["left or right breast"] not in SIDES:
                raise NotADatasetError(
                    f"{path}, line {reader.line_num}: the side must be among {', '.join(SIDES)} and the "
                    f"pathology among {', '.join(PATHOLOGY)}"
                )
            yield row


def _text(path: Path) -> str:
    """The text of a table: UTF-8, UTF-16 with its mark, or Latin-1; the columns that matter are ASCII."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotADatasetError(f"cannot read {path}: {error.strerror}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _film_row(image: str, findings: Sequence[FindingRow]) -> FilmRow:
    first = findings[0]
    malignant = any(PATHOLOGY[finding["pathology"]] == "malignant" for finding in findings)
    return FilmRow(
        image=image,
        patient=first["patient_id"],
        laterality=SIDES[first["left or right breast"]],
        view=first["image view"],
        label="malignant" if malignant else "benign",
        kinds=tuple(dict.fromkeys(finding["abnormality type"] for finding in findings)),
    )


# ----------------------------------------------------------------------------------------------- films


class Downloads:
    """The DICOM files in the folders of films and masks, and what is ignored there."""

    def __init__(self, raw: Path) -> None:
        self._folders: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(raw.rglob("*_P_*")):
            if FOLDER.fullmatch(path.name) and path.is_dir():
                self._folders[path.name].append(path)
        self._files: dict[str, tuple[Path, ...]] = {}
        self._hidden = self._copies = 0
        self.other_sizes = self.without_mask = 0

    def files(self, name: str) -> tuple[Path, ...]:
        """The DICOM files below the folders of this name, without copies."""
        if name not in self._files:
            folders = self._folders.get(name, ())
            paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
            visible = [path for path in paths if not _is_hidden(path)]
            films = [path for path in visible if _is_dicom(path)]
            self._files[name] = tuple(_distinct(films))
            self._hidden += len(paths) - len(visible)
            self._copies += len(films) - len(self._files[name])
        return self._files[name]

    def notes(self) -> list[str]:
        """What is ignored or does not fit."""
        return [
            f"{self._hidden} hidden files (._ and others) are ignored",
            f"{self._copies} files are copies of others and are ignored",
            f"{self.other_sizes} masks are larger or smaller than their film: their boxes are fitted to it",
            f"{self.without_mask} findings have no mask that fits their film, and no box",
        ]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _is_dicom(path: Path) -> bool:
    """By its ending, or by its content if it has another one."""
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _distinct(paths: Sequence[Path]) -> Iterator[Path]:
    """The first of the paths of each content."""
    sizes = Counter(path.stat().st_size for path in paths)
    seen = set()
    for path in paths:
        content = RawFile.of(path).sha256 if sizes[path.stat().st_size] > 1 else str(path)
        if content not in seen:
            seen.add(content)
            yield path


def _films(
    findings: Mapping[str, Sequence[FindingRow]], downloads: Downloads
) -> tuple[list[ListedFilm], dict[str, int]]:
    """The films that exist, numbered in the order of the tables; and lines about the others, with counts."""
    films, lost = [], Counter[str]()
    for number, (image, rows) in enumerate(findings.items(), 1):
        files = [downloads.files(_folder(finding)) for finding in rows]
        single = [
            paths[0] for paths in files if len(paths) == 1
        ]  # there twice with a mass and a calcification
        if single:
            films.append(ListedFilm(_film_row(image, rows), number, single[0]))
        else:
            lost["have several different files" if any(files) else "are not in the folder"] += 1
    return films, {f"the films of {count} images in the tables {why}": count for why, count in lost.items()}


def _folder(finding: FindingRow) -> str:
    """The first part of the path in the table; the rest depends on how the collection was downloaded."""
    return finding["image file path"].strip().partition("/")[0]


# ----------------------------------------------------------------------------------------------- masks


class Mask(NamedTuple):
    """A mask in the form that `Pool` expects, and the rows and columns of its film."""

    path: Path
    rows: int
    columns: int

    @property
    def pair_id(self) -> str:
        """Its name."""
        return self.path.name

    @property
    def films(self) -> tuple[str, str]:
        """Its path, in the place of a target."""
        return str(self.path), ""


def _masks(film: ListedFilm, findings: Sequence[FindingRow], downloads: Downloads) -> tuple[Mask, ...]:
    """For each finding the files that fit the film; the cropped image in the folder of a mask is smaller."""
    size = _header(film.path)
    if size is None:
        return ()
    masks: list[Mask] = []
    for finding in findings:
        paths = downloads.files(f"{_folder(finding)}_{finding['abnormality id']}")
        headers = [(path, header) for path in paths if (header := _header(path))]
        exact = [path for path, header in headers if _shape(header) == _shape(size)]
        fitting = [path for path, header in headers if _fits(header, size)]
        downloads.other_sizes += 0 if exact else len(fitting)
        downloads.without_mask += bool(headers and not fitting)
        masks += [Mask(path, *_shape(size)) for path in exact or fitting]
    return tuple(masks)


def _header(path: Path) -> dicom.Header | None:
    try:
        return dicom.read_header(path)
    except UnreadableImageError:
        return None  # loading a film will say why; a mask counts as missing


def _shape(header: dicom.Header) -> tuple[int, int]:
    return header.rows, header.columns


def _fits(mask: dicom.Header, film: dicom.Header) -> bool:
    """Nearly the size of the film, or of its proportions at another resolution."""
    down, across = mask.rows / film.rows, mask.columns / film.columns
    if _is_near(down, across):
        return True
    alike = abs(down / across - 1) <= SAME_PROPORTIONS
    return alike and mask.bits == 8 and 1 / LARGEST_SCALE <= down <= LARGEST_SCALE


def _is_near(down: float, across: float) -> bool:
    return max(abs(down - 1), abs(across - 1)) <= NEARLY_THE_SAME


def _with_boxes(film: ListedFilm, boxes: Sequence[Box]) -> ListedFilm:
    return replace(film, row=film.row.model_copy(update={"boxes": tuple(boxes)}))


def _boxes(masks: Sequence[Mask]) -> tuple[dict[Mask, Box], int]:
    """The boxes of these masks, opened in processes with limits, and the number of unreadable ones."""
    with closing(Pool(_marked_box)) as processes:
        outcomes = list(processes.run(masks))
    damaged = sum(isinstance(box, Rejection) for _, box in outcomes)
    boxes = {masks[number]: box for number, box in outcomes if box and not isinstance(box, Rejection)}
    return boxes, damaged


def _marked_box(mask: Mask) -> Box | tuple[()] | Rejection:
    """The box around a mask's pixels in pixels of the film; an empty tuple for an empty mask."""
    try:
        pixels, _ = dicom.read(mask.path)
    except UnreadableImageError as error:
        return rejected(mask, error.reason, str(error))
    x, y = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    if not len(x):
        return ()
    down, across = pixels.shape[0] / mask.rows, pixels.shape[1] / mask.columns
    if _is_near(down, across):  # rows and columns more or less at its end, not another resolution
        down = across = 1.0
    box = x[0] / across, y[0] / down, (x[-1] + 1) / across, (y[-1] + 1) / down
    clipped = float(box[0]), float(box[1]), float(min(box[2], mask.columns)), float(min(box[3], mask.rows))
    return clipped if clipped[0] < clipped[2] and clipped[1] < clipped[3] else ()
