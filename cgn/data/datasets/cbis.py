"""CBIS-DDSM (Lee et al. 2017): scanned films with a finding, DICOM, and tables with one row for each finding.

    <raw>/mass_case_description_train_set.csv and the other three, or some of them
    <raw>/.../Mass-Training_P_00001_LEFT_CC/.../*.dcm     the film
    <raw>/.../Mass-Training_P_00001_LEFT_CC_1/.../*.dcm   a cropped image and the mask of finding 1

The collection has no normal films. A reference exists only if both sides have a finding, so every reference
has a lesion of its own and the symmetric prior is weak; notes and counts say so. The official training and
test halves are joined, since folds are drawn by woman (reading 18). A woman is `P_00001`; the PatientID in
the files differs from film to film.
"""

import csv
import re
from collections import defaultdict
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
    tables = sorted(options.raw.glob("*case_description*.csv"))
    if not tables:
        raise NotADatasetError(f"no *_case_description_*_set.csv in {options.raw}: cbis needs its tables")
    folders = {path.name: path for path in sorted(options.raw.rglob("*_P_*")) if FOLDER.fullmatch(path.name)}
    findings = _findings_by_image(tables, COHORTS[options.cohort])
    films = list(_films(findings, folders))
    masks = {
        match.target: _masks(match.target, findings[match.target.row.image], folders)
        for match in match_films(films)
        if match.reference
    }
    boxes, damaged = _boxes([path for paths in masks.values() for path in paths])
    lost = len(findings) - len(films)
    base = scan_films(
        f"cbis-{options.cohort}",
        [_with_boxes(film, [boxes[path] for path in masks.get(film, ()) if path in boxes]) for film in films],
        [f"the films of {lost} images in the tables"] if lost else [],
        tables,
    )
    pseudonyms = open_pseudonyms()
    files = (RawFile.of(path, pseudonyms) for paths in masks.values() for path in paths)
    notes = [f"{damaged} masks cannot be read: their findings have no box"] if damaged else []
    return replace(base, files=(*base.files, *files), notes=(*base.notes, *notes, PRIOR))


# ---------------------------------------------------------------------------------------------- tables


def _findings_by_image(tables: Sequence[Path], kinds: Sequence[str]) -> dict[str, list[FindingRow]]:
    """The findings of these kinds by image, e.g. `P_00001_LEFT_CC`, which may have several."""
    images: dict[str, list[FindingRow]] = defaultdict(list)
    for path in tables:
        for row in _rows(path):
            if row["abnormality type"] in kinds:
                images["_".join(row[name] for name in IMAGE)].append(row)
    return images


def _rows(path: Path) -> Iterator[FindingRow]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
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


def _films(findings: Mapping[str, Sequence[FindingRow]], folders: Mapping[str, Path]) -> Iterator[ListedFilm]:
    """The images whose films exist, numbered in the order of the tables."""
    for number, (image, rows) in enumerate(findings.items(), 1):
        path = _film_path(rows, folders)
        if path is not None:
            yield ListedFilm(_film_row(image, rows), number, path)


def _film_path(findings: Sequence[FindingRow], folders: Mapping[str, Path]) -> Path | None:
    """The DICOM file of an image; a film with a mass and a calcification is there twice."""
    for finding in findings:
        files = _files(folders, _folder(finding))
        if len(files) == 1:
            return files[0]
    return None


def _folder(finding: FindingRow) -> str:
    """The first part of the path in the table; the rest depends on how the collection was downloaded."""
    return finding["image file path"].strip().partition("/")[0]


def _files(folders: Mapping[str, Path], name: str) -> list[Path]:
    return sorted(folders[name].rglob("*.dcm")) if name in folders else []


# ----------------------------------------------------------------------------------------------- masks


def _masks(film: ListedFilm, findings: Sequence[FindingRow], folders: Mapping[str, Path]) -> tuple[Path, ...]:
    """Files of the size of the film; the cropped image in the folder of a mask is smaller."""
    size = _size(film.path)
    return tuple(
        path
        for finding in findings
        for path in _files(folders, f"{_folder(finding)}_{finding['abnormality id']}")
        if size is not None and _size(path) == size
    )


def _size(path: Path) -> tuple[int, int] | None:
    try:
        header = dicom.read_header(path)
    except UnreadableImageError:
        return None  # loading a film will say why; a mask counts as missing
    return header.rows, header.columns


def _with_boxes(film: ListedFilm, boxes: Sequence[Box]) -> ListedFilm:
    return replace(film, row=film.row.model_copy(update={"boxes": tuple(boxes)}))


class _Mask(NamedTuple):
    """A mask in the form that `Pool` expects."""

    path: Path

    @property
    def pair_id(self) -> str:
        return self.path.name

    @property
    def films(self) -> tuple[str, str]:
        return str(self.path), ""


def _boxes(masks: Sequence[Path]) -> tuple[dict[Path, Box], int]:
    """The boxes of these masks, opened in processes with limits, and the number of unreadable ones."""
    with closing(Pool(_marked_box)) as processes:
        outcomes = list(processes.run([_Mask(path) for path in masks]))
    damaged = sum(isinstance(box, Rejection) for _, box in outcomes)
    boxes = {masks[number]: box for number, box in outcomes if box and not isinstance(box, Rejection)}
    return boxes, damaged


def _marked_box(mask: _Mask) -> Box | tuple[()] | Rejection:
    """The box around a mask's pixels; an empty tuple for an empty mask."""
    try:
        pixels, _ = dicom.read(mask.path)
    except UnreadableImageError as error:
        return rejected(mask, error.reason, str(error))
    x, y = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    return (float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)) if len(x) else ()
