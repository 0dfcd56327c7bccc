"""INbreast (Moreira et al. 2012): 410 digital mammograms of 115 women, DICOM, outlines as OsiriX lists.

    INBreast Release 1.0/
      AllDICOMs/   <8 digits>_<16 hex of the woman>_MG_<L|R>_<CC|ML|FB>_ANON.dcm
      AllXML/      <8 digits>.xml, only for images with findings
      INbreast.xls, INbreast.csv

The tables have traps. Only the name of a film identifies the woman (the table says "removed"). File names
call MLO ML. Only the XLS states the kinds of findings, only on `Sheet1` (another sheet holds personal data),
in columns one of which ends in a blank, with flags that may be a space; an empty row and a totals row turn
its numbers into floats. Women have several studies, and some have more than one image of a view. Outlines
have misspelt names, and may have a single point, points off the film, or be drawn twice.

Films of left breasts have the chest wall on the left, as they are displayed; mini-MIAS has it the other way.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import xlrd
from pydantic import Field, model_validator

from cgn.data.boxes import Box
from cgn.data.breast import Laterality
from cgn.data.datasets import DatasetOptions, FilmRecord, RawFile, Scan
from cgn.data.datasets._inbreast_outlines import Annotations, Roi, boxes_of
from cgn.data.identity.pseudonym import Pseudonyms, open_pseudonyms
from cgn.data.pairing import Match, contralateral
from cgn.data.reading import dicom
from cgn.data.reading.films import Film, read_film, read_pair
from cgn.data.records import PairRecord
from cgn.errors import NotADatasetError, UnreadableImageError

FLAGS = {"mass": "mass", "micros": "calcification", "distortion": "distortion", "asymmetry": "asymmetry"}
"""Columns of the XLS and the kinds that they flag."""

COHORTS = {
    "mass": {"mass"},
    "mixed": {"mass", "calcification", "distortion"},
    "all": {"mass", "calcification", "distortion", "asymmetry"},
}
"""Sec. IV-B. Images with masses; the paper's mixed lesions; asymmetries too."""

COHORT_OF_SETTING = {"a": "mass", "b": "mass", "c": "mixed"}
"""Sec. IV-C. The cohorts of the paper's settings."""

BIRADS = tuple("123456")
"""First characters of a BI-RADS value; 4 has the grades 4a, 4b and 4c."""

FILM = re.compile(r"(\d{8})_([0-9a-f]{16})_MG_([LR])_([A-Z]+)_ANON\.dcm", re.IGNORECASE)
VIEWS = {"ML": "MLO"}


class Options(DatasetOptions):
    """INbreast: which images, how they are paired, and where they are.

    For example: cgn cache inbreast --raw "INBreast Release 1.0" --setting a
    """

    raw: Path = Field(
        description="the folder 'INBreast Release 1.0', with AllDICOMs, AllXML and INbreast.xls"
    )
    cohort: Literal["mass", "mixed", "all"] | None = Field(
        None,
        description="mass (default); mixed: calcifications and distortions too; all: asymmetries too",
    )
    setting: Literal["a", "b", "c"] | None = Field(
        None, exclude=True, description="of the paper, instead of --cohort: a and b are mass, c is mixed"
    )
    pairing: Literal["same_study", "any_study"] = Field(
        "same_study",
        description="whether the reference is of the target's study, or of the nearest one (reading 17)",
    )

    @model_validator(mode="before")
    @classmethod
    def _cohort_of_the_setting(cls, values: dict[str, Any]) -> dict[str, Any]:
        cohort, setting = values.get("cohort"), values.get("setting")
        implied = COHORT_OF_SETTING.get(setting) if isinstance(setting, str) else None
        if cohort and implied and cohort != implied:
            raise ValueError(f"setting {setting} is the cohort {implied}: give one of the two")
        return {**values, "cohort": cohort or implied or "mass"}


@dataclass(frozen=True)
class ImageRow:
    """A row of the table.

    Attributes:
        month: since the year 0.
        birads: its first character.
        kinds: of findings; None if the table does not state them.
    """

    number: str
    side: Laterality
    view: str
    month: int
    birads: str
    kinds: tuple[str, ...] | None

    @property
    def malignant(self) -> bool:
        """Reading 17. BI-RADS above 3."""
        return int(self.birads) > 3


@dataclass(frozen=True)
class InbreastFilm:
    """A row with its file, the woman as the file's name identifies her, and the kinds of the findings."""

    row: ImageRow
    path: Path
    patient: str
    kinds: tuple[str, ...]

    @property
    def side(self) -> Laterality:
        """L or R."""
        return self.row.side

    @property
    def study(self) -> str:
        """The woman and the month, since the table does not name studies."""
        return f"{self.patient} {self.row.month}"


@dataclass(frozen=True)
class Release:
    """The files of a release: table, films, annotations, and the images that the cohort selects."""

    table: Path
    rows: Mapping[str, ImageRow]
    paths: Mapping[str, Path]
    annotations: Annotations
    pseudonyms: Pseudonyms
    cohort: frozenset[str]

    @classmethod
    def open(cls, raw: Path, cohort: str) -> "Release":
        """Reads the tables. Raises NotADatasetError."""
        root, pseudonyms = _root(raw), open_pseudonyms()
        table, rows = read_table(root)
        annotations = Annotations(root / "AllXML", pseudonyms)
        return cls(table, rows, _film_paths(root), annotations, pseudonyms, frozenset(COHORTS[cohort]))

    def kinds(self, number: str) -> tuple[str, ...]:
        """The kinds of an image's findings, from the table if it states them, otherwise from the outlines."""
        kinds = self.rows[number].kinds
        return self.annotations.kinds(number) if kinds is None else kinds

    def wanted(self) -> list[str]:
        """Numbers of the cohort's images, in the order of the table."""
        return [number for number in self.rows if self.cohort & set(self.kinds(number))]

    def films(self) -> tuple[list[InbreastFilm], list[str]]:
        """Films by number, and the numbers of films whose name contradicts the table."""
        films, contradicting = [], []
        for number in sorted(self.rows.keys() & self.paths.keys()):
            row, path = self.rows[number], self.paths[number]
            patient, side, view = _parts_of_name(path)
            if (side, view) == (row.side, row.view):
                films.append(InbreastFilm(row, path, patient, self.kinds(number)))
            else:
                contradicting.append(number)
        return films, contradicting


def scan(options: Options, size: int = 224) -> Scan:  # noqa: ARG001 - films have their own size
    """Sec. IV-B, reading 17. Every image of the cohort with a contralateral one is a target.

    Malignant if BI-RADS > 3. Of several contralateral images, the one of the nearest study is the reference,
    and among these the one with the nearest file number. Kinds and boxes are those of the cohort's findings.

    Raises:
        NotADatasetError: no folder, table or film, or a table without the required columns.
    """
    release = Release.open(options.raw, options.cohort or "mass")
    films, contradicting = release.films()
    wanted = release.wanted()
    matches = _matches(films, wanted, options.pairing)
    pairs = [(match.target, match.reference) for match in matches if match.reference]
    sources = {film.path for pair in pairs for film in pair} | set(release.annotations.paths.values())
    files = {path: RawFile.of(path, release.pseudonyms) for path in sorted(sources)}
    records = tuple(_record(*pair, release, files) for pair in pairs)
    missing, also_missing = _missing(release, wanted, contradicting)
    return Scan(
        name=f"inbreast-{options.cohort}",
        records=records,
        files=(RawFile.of(release.table), *files.values()),
        missing=missing,
        also_missing=also_missing,
        counts={
            "images in the table": len(release.rows),
            "films in the folder": len(release.paths),
            "images of the cohort": len(wanted),
            "of these without a film": len(wanted) - len(matches),
            "without a contralateral film": len(matches) - len(pairs),
            **_record_counts(records),
        },
        notes=(
            *(note for match in matches for note in _ambiguity(match, release.pseudonyms)),
            *release.annotations.notes,
        ),
        key_id=release.pseudonyms.key_id,
    )


def _matches(films: Sequence[InbreastFilm], wanted: Sequence[str], pairing: str) -> list[Match[InbreastFilm]]:
    """The images of the cohort that have a film, each with those that it may be compared with."""
    by_number = {match.target.row.number: match for match in contralateral(films, GROUPS[pairing], _distance)}
    return [by_number[number] for number in wanted if number in by_number]


def healthy_films(options: Options, size: int = 224) -> tuple[FilmRecord, ...]:  # noqa: ARG001 - as scan
    """Reading 40. Images of BI-RADS 1; where the table flags findings, images without one of the cohort too.

    An image without an outline was not read as normal for that; one of BI-RADS 1 was.
    """
    release = Release.open(options.raw, options.cohort or "mass")
    films, _ = release.films()
    wanted = set(release.wanted())
    reference_of = {
        match.reference.path: release.pseudonyms.of("pair", match.target.row.number)
        for match in _matches(films, release.wanted(), options.pairing)
        if match.reference
    }
    return tuple(
        _healthy_film(film, release, reference_of.get(film.path, ""))
        for film in films
        if film.row.number not in wanted and (film.row.birads == "1" or film.row.kinds is not None)
    )


def _healthy_film(film: InbreastFilm, release: Release, reference_of: str) -> FilmRecord:
    pseudonyms, file = release.pseudonyms, RawFile.of(film.path, release.pseudonyms)
    return FilmRecord(
        film_id=file.name,
        patient_id=pseudonyms.of("patient", film.patient),
        study_id=pseudonyms.of("study", film.study),
        view=film.row.view,
        side=film.side,
        no_finding=film.row.birads == "1" and not film.row.kinds,
        no_cohort_finding=True,
        load=partial(read_film, _film(film)),
        film=file,
        reference_of=reference_of,
    )


def _record_counts(records: Sequence[PairRecord]) -> dict[str, int]:
    labels = Counter(record.label for record in records)
    return {
        "targets": len(records),
        "benign": labels[0],
        "malignant": labels[1],
        "women": len({record.patient_id for record in records}),
        "with a lesion-free reference": sum(not record.reference_has_lesion for record in records),
        "without a location": sum(not record.boxes for record in records),
    }


def _record(
    target: InbreastFilm, reference: InbreastFilm, release: Release, files: Mapping[Path, RawFile]
) -> PairRecord:
    pseudonyms, cohort = release.pseudonyms, release.cohort
    rois = [roi for roi in release.annotations.rois(target.row.number) if roi.kind in cohort]
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
        load=partial(read_pair, _film(target), _film(reference)),
        films=(files[target.path].name, files[reference.path].name),
    )


def _film(film: InbreastFilm) -> Film:
    aliases = {view: alias for alias, view in VIEWS.items()}
    return Film(
        film.path,
        film.side,
        film.row.view,
        chest_wall="left" if film.side == "L" else "right",
        view_in_tags=aliases.get(film.row.view),
    )


def _boxes(rois: Sequence[Roi], film: Path) -> tuple[Box, ...]:
    try:
        header = dicom.read_header(film)
    except UnreadableImageError:
        return ()  # loading the film will say why
    return boxes_of(rois, header.rows, header.columns)


def _same_study(film: InbreastFilm) -> tuple[str, str, int]:
    return film.patient, film.row.view, film.row.month


def _any_study(film: InbreastFilm) -> tuple[str, str]:
    return film.patient, film.row.view


GROUPS: dict[str, Callable[[InbreastFilm], tuple[Any, ...]]] = {
    "same_study": _same_study,
    "any_study": _any_study,
}


def _distance(a: InbreastFilm, b: InbreastFilm) -> tuple[int, int]:
    return abs(a.row.month - b.row.month), abs(int(a.row.number) - int(b.row.number))


def _ambiguity(match: Match[InbreastFilm], pseudonyms: Pseudonyms) -> Iterator[str]:
    """A note if one study has several films of the other side; two groups of the real data do."""
    months = [candidate.row.month for candidate in match.candidates]
    if months and months.count(months[0]) > 1:
        name = pseudonyms.of("pair", match.target.row.number)
        count = months.count(months[0])
        yield f"{name}: {count} films of the other side; the one with the nearest file number is used"


def _missing(
    release: Release, wanted: Sequence[str], contradicting: Sequence[str]
) -> tuple[tuple[str, ...], int]:
    """See `Scan.missing` and `Scan.also_missing`."""
    pseudonyms, paths = release.pseudonyms, release.paths
    lines = [
        f"{pseudonyms.of('pair', number)}: a target without a film in AllDICOMs"
        for number in wanted
        if number not in paths
    ]
    lines += [
        f"{pseudonyms.of('pair', number)}: the name of its film has another side or view than the table"
        for number in contradicting
    ]
    others = len(release.rows.keys() - paths.keys() - set(wanted))
    if others:
        lines.append(f"the films of {others} images that could be references")
    return tuple(lines), max(0, others - 1)


# ---------------------------------------------------------------------------------------------- tables


def _root(folder: Path) -> Path:
    inner = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for root in (folder, *(path for path in inner if path.name.lower() == "inbreast release 1.0")):
        if (root / "AllDICOMs").is_dir():
            return root
    raise NotADatasetError(f"no AllDICOMs in {folder}: inbreast needs the folder 'INBreast Release 1.0'")


def read_table(root: Path) -> tuple[Path, dict[str, ImageRow]]:
    """The table and its rows by file number; the XLS if it exists, since only it states the findings.

    Raises:
        NotADatasetError: no table, or one without the required columns or rows.
    """
    paths = {path.name.lower(): path for path in sorted(root.iterdir())}
    for name, read_lines in (("inbreast.xls", _xls_lines), ("inbreast.csv", _csv_lines)):
        if path := paths.get(name):
            rows = {row.number: row for row in _rows(path, read_lines(path))}
            if not rows:
                raise NotADatasetError(f"no row with a file number of 8 digits and a BI-RADS in {path}")
            return path, rows
    raise NotADatasetError(f"neither INbreast.xls nor INbreast.csv in {root}")


def _xls_lines(path: Path) -> list[list[str]]:
    try:
        with xlrd.open_workbook(path, on_demand=True) as book:  # on demand: other sheets hold personal data
            sheet = book.sheet_by_name("Sheet1")
            return [[_text(cell) for cell in sheet.row_values(row)] for row in range(sheet.nrows)]
    except Exception as error:  # a parser may raise anything on arbitrary input
        raise NotADatasetError(f"{path} must be an XLS workbook with a 'Sheet1': {error}") from None


def _csv_lines(path: Path) -> list[list[str]]:
    with path.open(encoding="latin-1", newline="") as stream:
        return [[_text(cell) for cell in row] for row in csv.reader(stream, delimiter=";")]


def _text(cell: Any) -> str:
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def _rows(path: Path, lines: list[list[str]]) -> Iterator[ImageRow]:
    header = [name.lower() for name in lines[0]] if lines else []
    required = ("file name", "laterality", "view", "acquisition date", "bi-rads")
    lacking = [name for name in required if name not in header]
    if lacking:
        raise NotADatasetError(
            f"{path} must have the columns {', '.join(required)} but lacks {', '.join(lacking)}"
        )
    with_flags = all(name in header for name in FLAGS)
    for number, line in enumerate(lines[1:], 2):
        cells = defaultdict(str, zip(header, line, strict=False))
        if not re.fullmatch(r"\d{8}", cells["file name"]):
            continue  # the empty row and the totals row
        side, birads, month = cells["laterality"], cells["bi-rads"], cells["acquisition date"]
        if side not in ("L", "R") or birads[:1] not in BIRADS or not re.fullmatch(r"\d{6}", month):
            raise NotADatasetError(
                f"{path}, line {number}: must have L or R, a month like 201001 and a BI-RADS from 1 to 6 "
                f"but has {side!r}, {month!r} and {birads!r}"
            )
        yield ImageRow(
            number=cells["file name"],
            side="L" if side == "L" else "R",
            view=cells["view"],
            month=12 * int(month[:4]) + int(month[4:]),
            birads=birads[0],
            kinds=tuple(kind for name, kind in FLAGS.items() if cells[name]) if with_flags else None,
        )


def _film_paths(root: Path) -> dict[str, Path]:
    """Files in AllDICOMs by file number."""
    paths = {
        path.name[:8]: path for path in sorted((root / "AllDICOMs").iterdir()) if FILM.fullmatch(path.name)
    }
    if not paths:
        raise NotADatasetError(
            f"no film like 12345678_0123456789abcdef_MG_L_CC_ANON.dcm in {root / 'AllDICOMs'}"
        )
    return paths


def _parts_of_name(path: Path) -> tuple[str, str, str]:
    """Woman, side and view in the name of a film, with views spelt as in the table."""
    _, patient, side, view = FILM.fullmatch(path.name).groups()  # type: ignore[union-attr]
    return patient.lower(), side.upper(), VIEWS.get(view.upper(), view.upper())
