"""INbreast (Moreira et al. 2012): 410 digital mammograms of 115 women, DICOM, outlines as OsiriX lists.

    INBreast Release 1.0/
      AllDICOMs/   <8 digits>_<16 hex of the woman>_MG_<L|R>_<CC|ML|FB>_ANON.dcm
      AllXML/      <8 digits>.xml, only of images with findings
      INbreast.xls, INbreast.csv

The tables have traps. The woman stands in the name of the film alone (the table says "removed"). The
files call MLO ML. Only the XLS tells the kinds of findings, on `Sheet1` alone (another sheet holds
personal data), in columns one of which ends in a blank, with flags that may be a space; an empty and a
totals row turn its numbers into floats. Women have several studies, and some more than one image of a
view. Outlines bear misspelt names, may have one point, points off the film, or be drawn twice.

The chest wall stands on the left of films of left breasts, as they are displayed; mini-MIAS hangs its
films the other way.
"""

import csv
import plistlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import xlrd
from pydantic import Field, model_validator

from cgn.data import dicom
from cgn.data.breast import Laterality
from cgn.data.datasets import DatasetOptions, Image, PairRecord, RawFile, Scan, load_pair
from cgn.data.pairing import Pair, contralateral
from cgn.data.pairs import Box
from cgn.data.pseudonym import Pseudonyms, open_pseudonyms
from cgn.errors import NotADatasetError, UnreadableImageError
from cgn.metrics import iou

FLAGS = {"mass": "mass", "micros": "calcification", "distortion": "distortion", "asymmetry": "asymmetry"}
"""Columns of the XLS and the kinds they flag."""

COHORTS = {
    "mass": {"mass"},
    "mixed": {"mass", "calcification", "distortion"},
    "all": {"mass", "calcification", "distortion", "asymmetry"},
}
"""Sec. IV-B. Images with masses; the paper's mixed lesions; asymmetries too."""

COHORT_OF_SETTING = {"a": "mass", "b": "mass", "c": "mixed"}
"""Sec. IV-C. The cohorts of the paper's settings."""

OUTLINES = {
    "mass": "mass",
    "spiculated region": "mass",
    "espiculated region": "mass",
    "cluster": "calcification",
    "distortion": "distortion",
    "asymmetry": "asymmetry",
    "assymetry": "asymmetry",
}
"""Names of outlines that place a lesion, as they are spelt, and its kind."""

POINTS = {"calcification": "calcification", "calcifications": "calcification"}
"""Names of single calcifications: they tell the kind, but no place (reading 17)."""

BIRADS = tuple("123456")
"""What a BI-RADS begins with; 4 has the grades 4a, 4b and 4c."""

NAMELESS = re.compile(r"(unnamed|point \d+)?")

SAME_LESION = 0.8
"""Intersection over union from which two outlines of a kind are one lesion, drawn twice."""

FILM = re.compile(r"(\d{8})_([0-9a-f]{16})_MG_([LR])_([A-Z]+)_ANON\.dcm", re.IGNORECASE)
POINT = re.compile(r"\s*\(\s*(-?[\d.eE+-]+)\s*,\s*(-?[\d.eE+-]+)\s*\)\s*")
VIEWS = {"ML": "MLO"}


class Options(DatasetOptions):
    """INbreast: what of it to take, how to pair it, and where it lies.

    For example: cgn cache inbreast --raw "INBreast Release 1.0" --setting a
    """

    raw: Path = Field(
        description="the folder 'INBreast Release 1.0', with AllDICOMs, AllXML and INbreast.xls"
    )
    cohort: Literal["mass", "mixed", "all"] | None = Field(
        None,
        description="mass, if not said; mixed: calcifications and distortions too; all: asymmetries too",
    )
    setting: Literal["a", "b", "c"] | None = Field(
        None, exclude=True, description="of the paper, in place of --cohort: a and b are mass, c is mixed"
    )
    pairing: Literal["same_study", "any_study"] = Field(
        "same_study", description="the reference is of the target's study, or of the nearest one (reading 17)"
    )

    @model_validator(mode="before")
    @classmethod
    def _cohort_of_the_setting(cls, values: dict[str, Any]) -> dict[str, Any]:
        cohort, setting = values.get("cohort"), values.get("setting")
        wanted = COHORT_OF_SETTING.get(setting) if isinstance(setting, str) else None
        if cohort and wanted and cohort != wanted:
            raise ValueError(f"setting {setting} is the cohort {wanted}: give one of the two")
        return {**values, "cohort": cohort or wanted or "mass"}


@dataclass(frozen=True)
class Row:
    """A line of the table; `kinds` are None where the table does not tell them."""

    number: str
    side: Laterality
    view: str
    month: int
    malignant: bool
    kinds: tuple[str, ...] | None


@dataclass(frozen=True)
class Film:
    """A row with its film, the woman as the film's name has her, and the kinds of its findings."""

    row: Row
    path: Path
    patient: str
    kinds: tuple[str, ...]

    @property
    def side(self) -> Laterality:
        """L or R."""
        return self.row.side

    @property
    def study(self) -> str:
        """The woman and the month: the table has no better name of it."""
        return f"{self.patient} {self.row.month}"


class Roi(NamedTuple):
    """A region of interest: its kind, and its points `(x, y)` where it is an outline."""

    kind: str
    points: tuple[tuple[float, float], ...]


def scan(options: Options, size: int = 224) -> Scan:  # noqa: ARG001 - films have their own size
    """Sec. IV-B, reading 17. Every image of the cohort with a contralateral one is a target.

    Malignant if BI-RADS > 3. Of several contralateral images the one of the nearest study is taken, and
    of these that with the nearest file number. Kinds and boxes are those of the cohort's findings.

    Raises:
        NotADatasetError: no folder, table or film, or a table without what is needed.
    """
    root, cohort = _root(options.raw), COHORTS[options.cohort or "mass"]
    pseudonyms = open_pseudonyms()
    table, rows = _table(root)
    paths, annotations = _films(root), Annotations(root / "AllXML", pseudonyms)
    films, strange = _joined(rows, paths, annotations)
    wanted = [number for number, row in rows.items() if cohort & set(annotations.kinds(row))]
    found = {p.target.row.number: p for p in contralateral(films, GROUPS[options.pairing], _apart)}
    pairs = [(p.target, p.reference) for n in wanted if (p := found.get(n)) and p.reference]
    sources = {film.path for pair in pairs for film in pair} | set(annotations.paths.values())
    files = {path: RawFile.of(path, pseudonyms) for path in sorted(sources)}
    records = tuple(_record(*pair, cohort, annotations, files, pseudonyms) for pair in pairs)
    labels = Counter(record.label for record in records)
    return Scan(
        name=f"inbreast-{options.cohort}",
        records=records,
        files=(RawFile.of(table), *files.values()),
        missing=tuple(_missing(rows, wanted, paths, strange, pseudonyms)),
        counts={
            "images in the table": len(rows),
            "films in the folder": len(paths),
            "images of the cohort": len(wanted),
            "of these without a film": sum(n not in found for n in wanted),
            "without a contralateral film": sum(n in found and found[n].reference is None for n in wanted),
            "targets": len(records),
            "benign": labels[0],
            "malignant": labels[1],
            "women": len({record.patient_id for record in records}),
            "with a lesion-free reference": sum(not r.reference_has_lesion for r in records),
            "without a location": sum(not r.boxes for r in records),
        },
        notes=(
            *(note for n in wanted if n in found for note in _doubts(found[n], pseudonyms)),
            *annotations.notes,
        ),
        key_id=pseudonyms.key_id,
    )


def _record(
    target: Film,
    reference: Film,
    cohort: set[str],
    annotations: "Annotations",
    files: Mapping[Path, RawFile],
    pseudonyms: Pseudonyms,
) -> PairRecord:
    rois = [roi for roi in annotations.of(target.row.number) if roi.kind in cohort]
    return PairRecord(
        pair_id=pseudonyms.of("pair", target.row.number),
        patient_id=pseudonyms.of("patient", target.patient),
        study_id=pseudonyms.of("study", target.study),
        view=target.row.view,
        side=target.side,
        label=int(target.row.malignant),
        kinds=tuple(kind for kind in target.kinds if kind in cohort),
        boxes=_boxes(rois, target.path),
        reference_has_lesion=bool(reference.kinds),
        load=partial(load_pair, partial(_image, target), partial(_image, reference)),
        films=(files[target.path].name, files[reference.path].name),
    )


def _same_study(film: Film) -> tuple[str, str, int]:
    return film.patient, film.row.view, film.row.month


def _any_study(film: Film) -> tuple[str, str]:
    return film.patient, film.row.view


GROUPS: dict[str, Callable[[Film], tuple[Any, ...]]] = {"same_study": _same_study, "any_study": _any_study}


def _apart(a: Film, b: Film) -> tuple[int, int]:
    return abs(a.row.month - b.row.month), abs(int(a.row.number) - int(b.row.number))


def _doubts(pair: Pair[Film], pseudonyms: Pseudonyms) -> Iterator[str]:
    """Two groups of the real data have more than one film of the other side in one study."""
    months = [other.row.month for other in pair.others]
    if months and months.count(months[0]) > 1:
        name = pseudonyms.of("pair", pair.target.row.number)
        count = months.count(months[0])
        yield f"{name}: {count} films of the other side, that with the nearest file number was taken"


def _missing(
    rows: Mapping[str, Row],
    wanted: list[str],
    paths: Mapping[str, Path],
    strange: set[str],
    pseudonyms: Pseudonyms,
) -> Iterator[str]:
    for number in wanted:
        if number not in paths:
            yield f"{pseudonyms.of('pair', number)}: a target, but no film in AllDICOMs"
    for number in sorted(strange):
        yield f"{pseudonyms.of('pair', number)}: its film's name has another side or view than the table"
    others = len(rows.keys() - paths.keys() - set(wanted))
    if others:
        yield f"the films of {others} images that could be references"


def _joined(
    rows: Mapping[str, Row], paths: Mapping[str, Path], annotations: "Annotations"
) -> tuple[list[Film], set[str]]:
    """Films whose names agree with the table, in the order of their numbers, and those that do not."""
    films, strange = [], set()
    for number in sorted(rows.keys() & paths.keys()):
        row, path = rows[number], paths[number]
        _, patient, side, view = _named(path)
        if (side, view) == (row.side, row.view):
            films.append(Film(row, path, patient, annotations.kinds(row)))
        else:
            strange.add(number)
    return films, strange


# ---------------------------------------------------------------------------------------------- tables


def _root(folder: Path) -> Path:
    inner = [p for p in sorted(folder.iterdir()) if p.is_dir()] if folder.is_dir() else []
    for root in (folder, *(p for p in inner if p.name.lower() == "inbreast release 1.0")):
        if (root / "AllDICOMs").is_dir():
            return root
    raise NotADatasetError(f"no AllDICOMs in {folder}: inbreast needs the folder 'INBreast Release 1.0'")


def _table(root: Path) -> tuple[Path, dict[str, Row]]:
    """The rows by file number; from the XLS where there is one, since only it tells the findings."""
    there = {path.name.lower(): path for path in sorted(root.iterdir())}
    for name, cells in (("inbreast.xls", _xls), ("inbreast.csv", _csv)):
        if name in there:
            rows = dict(_rows(there[name], cells(there[name])))
            if not rows:
                raise NotADatasetError(
                    f"no row with a file number of 8 digits and a BI-RADS in {there[name]}"
                )
            return there[name], rows
    raise NotADatasetError(f"neither INbreast.xls nor INbreast.csv in {root}")


def _xls(path: Path) -> list[list[str]]:
    try:
        with xlrd.open_workbook(path, on_demand=True) as book:  # on demand: other sheets hold personal data
            sheet = book.sheet_by_name("Sheet1")
            return [[_text(cell) for cell in sheet.row_values(row)] for row in range(sheet.nrows)]
    except Exception as error:  # a parser fed with anything may raise anything
        raise NotADatasetError(f"{path} must be an XLS workbook with a 'Sheet1': {error}") from None


def _csv(path: Path) -> list[list[str]]:
    with path.open(encoding="latin-1", newline="") as stream:
        return [[_text(cell) for cell in row] for row in csv.reader(stream, delimiter=";")]


def _text(cell: Any) -> str:
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def _rows(path: Path, lines: list[list[str]]) -> Iterator[tuple[str, Row]]:
    header = [name.lower() for name in lines[0]] if lines else []
    needed = ("file name", "laterality", "view", "acquisition date", "bi-rads")
    lacking = [name for name in needed if name not in header]
    if lacking:
        raise NotADatasetError(
            f"{path} must have the columns {', '.join(needed)} but lacks {', '.join(lacking)}"
        )
    flagged = all(name in header for name in FLAGS)
    for number, line in enumerate(lines[1:], 2):
        cell = defaultdict(str, zip(header, line, strict=False))
        if not re.fullmatch(r"\d{8}", cell["file name"]):
            continue  # the empty and the totals row
        side, birads, month = cell["laterality"], cell["bi-rads"], cell["acquisition date"]
        if side not in ("L", "R") or birads[:1] not in BIRADS or not re.fullmatch(r"\d{6}", month):
            raise NotADatasetError(
                f"{path}, line {number}: must have L or R, a month like 201001 and a BI-RADS from 1 to 6 "
                f"but has {side!r}, {month!r} and {birads!r}"
            )
        yield (
            cell["file name"],
            Row(
                number=cell["file name"],
                side="L" if side == "L" else "R",
                view=cell["view"],
                month=12 * int(month[:4]) + int(month[4:]),
                malignant=int(birads[0]) > 3,
                kinds=tuple(kind for name, kind in FLAGS.items() if cell[name]) if flagged else None,
            ),
        )


def _films(root: Path) -> dict[str, Path]:
    films = {
        path.name[:8]: path for path in sorted((root / "AllDICOMs").iterdir()) if FILM.fullmatch(path.name)
    }
    if not films:
        raise NotADatasetError(
            f"no film like 12345678_0123456789abcdef_MG_L_CC_ANON.dcm in {root / 'AllDICOMs'}"
        )
    return films


def _named(path: Path) -> tuple[str, str, str, str]:
    """Number, woman, side and view as the film's name has them; views as the table spells them."""
    number, patient, side, view = FILM.fullmatch(path.name).groups()  # type: ignore[union-attr]
    return number, patient.lower(), side.upper(), VIEWS.get(view.upper(), view.upper())


# -------------------------------------------------------------------------------------------- outlines


class Annotations:
    """AllXML: each file is read once, when it is asked for; what cannot be read becomes a note."""

    def __init__(self, folder: Path, pseudonyms: Pseudonyms) -> None:
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        self.paths = {path.stem: path for path in files if re.fullmatch(r"\d{8}\.xml", path.name)}
        muscles = sum(path.name.endswith("_muscle.xml") for path in files)
        self.notes = (
            [f"{muscles} outlines of pectoral muscles (_muscle.xml) are no lesions"] if muscles else []
        )
        self._pseudonyms = pseudonyms
        self._read: dict[str, tuple[Roi, ...]] = {}

    def of(self, number: str) -> tuple[Roi, ...]:
        """The regions of interest of an image, whatever its cohort."""
        if number not in self._read:
            self._read[number] = self._rois(number) if number in self.paths else ()
        return self._read[number]

    def _rois(self, number: str) -> tuple[Roi, ...]:
        name = self._pseudonyms.of("pair", number)
        try:
            rois, strange = _rois(self.paths[number])
        except NotADatasetError as error:
            self.notes.append(f"{name}: no outlines, for {error}")
            return ()
        if strange:
            self.notes.append(f"{name}: {strange} regions of names that nobody knows are left out")
        return rois

    def kinds(self, row: Row) -> tuple[str, ...]:
        """The kinds of an image's findings, as the table has them or else as its outlines are named."""
        if row.kinds is not None:
            return row.kinds
        return tuple(dict.fromkeys(roi.kind for roi in self.of(row.number)))


def _rois(path: Path) -> tuple[tuple[Roi, ...], int]:
    """What an OsiriX list says, and how many names in it nobody knows.

    Raises:
        NotADatasetError: the file is no such list.
    """
    rois: list[Roi] = []
    strange = 0
    try:
        for image in plistlib.loads(path.read_bytes())["Images"]:
            for roi in image["ROIs"]:
                name = " ".join(roi.get("Name", "").split()).lower()
                kind = OUTLINES.get(name)
                if kind:
                    rois.append(Roi(kind, tuple(map(_point, roi["Point_px"]))))
                elif name in POINTS:
                    rois.append(Roi(POINTS[name], ()))
                elif not NAMELESS.fullmatch(name):
                    strange += 1
    except Exception:  # a parser fed with anything may raise anything
        raise NotADatasetError("its XML must be an OsiriX list of regions of interest") from None
    return tuple(rois), strange


def _point(text: str) -> tuple[float, float]:
    x, y = POINT.fullmatch(text).groups()  # type: ignore[union-attr]
    return float(x), float(y)


def _boxes(rois: list[Roi], film: Path) -> tuple[Box, ...]:
    """Boxes of outlines with at least three points on the film, each lesion once."""
    try:
        header = dicom.read_header(film)
    except UnreadableImageError:
        return ()  # its load will say why
    boxes: list[Box] = []
    for roi in rois:
        points = [(x, y) for x, y in roi.points if 0 <= x < header.columns and 0 <= y < header.rows]
        if len(points) < 3:
            continue
        xs, ys = zip(*points, strict=True)
        box = float(int(min(xs))), float(int(min(ys))), float(int(max(xs)) + 1), float(int(max(ys)) + 1)
        if all(iou(box, other) < SAME_LESION for other in boxes):
            boxes.append(box)
    return tuple(boxes)


# ----------------------------------------------------------------------------------------------- films


def _image(film: Film) -> Image:
    pixels, bits = dicom.read(film.path, laterality=film.side)
    return Image(pixels, bits, "left" if film.side == "L" else "right")
