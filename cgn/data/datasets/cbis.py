"""CBIS-DDSM (Lee et al. 2017): scanned films with a finding, DICOM, and tables with one row a finding.

    <raw>/mass_case_description_train_set.csv and the other three, or some of them
    <raw>/.../Mass-Training_P_00001_LEFT_CC/.../*.dcm     the film
    <raw>/.../Mass-Training_P_00001_LEFT_CC_1/.../*.dcm   a cropped image and the mask of finding 1

The collection has no normal films: a reference is there only where both sides have a finding, so every
reference has a lesion of its own and the symmetric prior is weak. That is said in the notes and counts.
The official training and test halves are joined, for folds are drawn by woman (reading 18). A woman is
`P_00001`; what the files call a patient differs from film to film.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from cgn.data import dicom
from cgn.data.breast import Laterality
from cgn.data.datasets import DatasetOptions, RawFile, Scan
from cgn.data.datasets.manifest import Film, Row, scan_films
from cgn.data.pairs import Box
from cgn.data.pseudonym import open_pseudonyms
from cgn.data.workers import Pool, Rejection, rejection
from cgn.errors import NotADatasetError, UnreadableImageError

COLUMNS = (
    "patient_id",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "pathology",
    "image file path",
)
PATHOLOGY = {"BENIGN": "benign", "BENIGN_WITHOUT_CALLBACK": "benign", "MALIGNANT": "malignant"}
SIDES: dict[str, Laterality] = {"LEFT": "L", "RIGHT": "R"}
COHORTS = {"mass": ("mass",), "mixed": ("mass", "calcification")}
PRIOR = "CBIS-DDSM has no normal films: every reference has a lesion of its own"
FOLDER = re.compile(r"(?:Mass|Calc)-(?:Training|Test)_P_\d{5}_(?:LEFT|RIGHT)_(?:CC|MLO)(?:_\d+)?")


class Options(DatasetOptions):
    """CBIS-DDSM: films with a finding on both sides; every reference has a lesion of its own."""

    raw: Path = Field(description="folder with *_case_description_*_set.csv and, below it, the DICOM folders")
    cohort: Literal["mass", "mixed"] = Field(
        "mixed", description="mass: films with masses; mixed: with masses or calcifications"
    )


def scan(options: Options, size: int = 224) -> Scan:  # noqa: ARG001 - films have their own size
    """Every film whose other side has a finding too is a target; malignant if any of its findings is.

    Boxes are those of the masks that are there; masks are annotations, so a scan reads them.

    Raises:
        NotADatasetError: no folder, no table, or a table without its columns.
    """
    tables = sorted(options.raw.glob("*case_description*.csv"))
    if not tables:
        raise NotADatasetError(f"no *_case_description_*_set.csv in {options.raw}: cbis needs its tables")
    folders = {path.name: path for path in sorted(options.raw.rglob("*_P_*")) if FOLDER.fullmatch(path.name)}
    images = _findings(tables, COHORTS[options.cohort])
    places = {image: _film(folders, findings) for image, findings in images.items()}
    films = [
        Film(_row(image, images[image]), number, path)
        for number, (image, path) in enumerate(places.items(), 1)
        if path
    ]
    sides = {(film.row.patient, film.row.view, film.side) for film in films}
    masks = {
        film: _masks(film, images[film.row.image], folders)
        for film in films
        if (film.row.patient, film.row.view, "R" if film.side == "L" else "L") in sides
    }
    boxes, damaged = _boxes([path for paths in masks.values() for path in paths])
    lost = len(places) - len(films)
    found = scan_films(
        f"cbis-{options.cohort}",
        [_with_boxes(film, [boxes[path] for path in masks.get(film, ()) if path in boxes]) for film in films],
        [f"the films of {lost} images that the tables name"] if lost else [],
        tables,
    )
    pseudonyms = open_pseudonyms()
    files = (RawFile.of(path, pseudonyms) for paths in masks.values() for path in paths)
    notes = [f"{damaged} masks cannot be read: their findings have no box"] if damaged else []
    return replace(found, files=(*found.files, *files), notes=(*found.notes, *notes, PRIOR))


def _findings(tables: Sequence[Path], kinds: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """The rows of these kinds by image, e.g. `P_00001_LEFT_CC`: a film with two findings has two."""
    images: dict[str, list[dict[str, str]]] = defaultdict(list)
    for path in tables:
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
                if row["abnormality type"] in kinds:
                    image = "_".join(
                        row[name] for name in ("patient_id", "left or right breast", "image view")
                    )
                    images[image].append(row)
    return images


def _row(image: str, findings: Sequence[dict[str, str]]) -> Row:
    first = findings[0]
    malignant = any(PATHOLOGY[row["pathology"]] == "malignant" for row in findings)
    return Row(
        image=image,
        patient=first["patient_id"],
        laterality=SIDES[first["left or right breast"]],
        view=first["image view"],
        label="malignant" if malignant else "benign",
        kinds=tuple(dict.fromkeys(row["abnormality type"] for row in findings)),
    )


def _folder(finding: dict[str, str]) -> str:
    """The first part of the path as the table has it; what follows depends on how it was downloaded."""
    return finding["image file path"].strip().partition("/")[0]


def _film(folders: Mapping[str, Path], findings: Sequence[dict[str, str]]) -> Path | None:
    """The one DICOM file of an image: a film with a mass and a calcification has two equal ones."""
    for finding in findings:
        files = _files(folders, _folder(finding))
        if len(files) == 1:
            return files[0]
    return None


def _masks(film: Film, findings: Sequence[dict[str, str]], folders: Mapping[str, Path]) -> tuple[Path, ...]:
    """Files as large as the film; the cropped image that lies beside a mask is smaller."""
    return tuple(
        path
        for finding in findings
        for path in _files(folders, f"{_folder(finding)}_{finding['abnormality id']}")
        if (size := _size(path)) is not None and size == _size(film.path)
    )


def _size(path: Path) -> tuple[int, int] | None:
    try:
        header = dicom.read_header(path)
    except UnreadableImageError:
        return None  # a film's load will say why; a mask is as good as not there
    return header.rows, header.columns


def _with_boxes(film: Film, boxes: Sequence[Box]) -> Film:
    return replace(film, row=film.row.model_copy(update={"boxes": tuple(boxes)}))


class _Mask(NamedTuple):
    """A mask, as `Pool` wants to know it."""

    path: Path

    @property
    def pair_id(self) -> str:
        return self.path.name

    @property
    def films(self) -> tuple[str, str]:
        return str(self.path), ""


def _boxes(masks: Sequence[Path]) -> tuple[dict[Path, Box], int]:
    """What these masks mark, and how many cannot be read. They are opened as films are, with limits."""
    with closing(Pool(_marked)) as processes:
        told = list(processes.run([_Mask(path) for path in masks]))
    damaged = sum(isinstance(box, Rejection) for _, box in told)
    return {masks[number]: box for number, box in told if box and not isinstance(box, Rejection)}, damaged


def _marked(mask: _Mask) -> Box | tuple[()] | Rejection:
    try:
        pixels, _ = dicom.read(mask.path)
    except UnreadableImageError as error:
        return rejection(mask, error.reason, str(error))
    x, y = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    return (float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)) if len(x) else ()


def _files(folders: Mapping[str, Path], name: str) -> list[Path]:
    return sorted(folders[name].rglob("*.dcm")) if name in folders else []
