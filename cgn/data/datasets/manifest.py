"""Your own films: a table with one row for each image, CSV or Parquet (the paper's in-house set, Sec. IV-B).

All problems of a table are reported together. Unknown columns are refused: a misspelt column would be lost,
and an additional one may hold personal data.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cgn.data.boxes import Box
from cgn.data.breast import Laterality, Wall
from cgn.data.datasets import DatasetOptions, RawFile, Scan
from cgn.data.identity.pseudonym import Pseudonyms, open_pseudonyms
from cgn.data.pairing import Match, contralateral
from cgn.data.reading import dicom, raster
from cgn.data.reading.films import Film, read_image
from cgn.data.records import PairRecord, RawImage, load_pair
from cgn.errors import NotADatasetError

MAX_PROBLEMS = 20
"""Number of problems that a message lists; a table with a wrong column has one in every row."""

SURPLUS = "surplus cells"

Hanging = Literal["auto", "displayed", "mirrored"]


def _listed(value: Any) -> Any:
    """The parts of a text between semicolons; any other value unchanged."""
    return [part.strip() for part in value.split(";") if part.strip()] if isinstance(value, str) else value


def _boxed(value: Any) -> list[list[float]]:
    try:
        parts = (part.split() if isinstance(part, str) else part for part in _listed(value))
        boxes = [[float(number) for number in part] for part in parts]
    except (TypeError, ValueError):
        boxes = [[]]
    if not all(len(box) == 4 and 0 <= box[0] < box[2] and 0 <= box[1] < box[3] for box in boxes):
        raise ValueError("must be 'x0 y0 x1 y1; x0 y0 x1 y1' with 0 <= x0 < x1 and 0 <= y0 < y1")
    return boxes


class FilmRow(BaseModel):
    """One image; `Options` explains the columns."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", str_strip_whitespace=True, coerce_numbers_to_str=True
    )

    image: str
    patient: str
    laterality: Laterality
    view: str
    label: Literal["benign", "malignant", "normal", ""] = ""
    study: str = ""
    boxes: Annotated[tuple[Box, ...], BeforeValidator(_boxed)] = ()
    kinds: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    bits: int | None = Field(None, ge=8, le=16)
    chest_wall: Wall | None = None

    @model_validator(mode="after")
    def _bits_fit_the_file(self) -> "FilmRow":
        if self.bits and not self.image.lower().endswith(raster.SUFFIXES):
            raise ValueError("bits must be blank for a DICOM image, which states its own")
        return self


class Options(DatasetOptions):
    """Your own films: a table with one row for each image, CSV (comma or semicolon) or Parquet.

    Required columns:

      image       file, relative to the table: .png, .pgm, .tif or DICOM

      patient     any name or number; replaced by a pseudonym

      laterality  L or R

      view        CC, MLO or another word

      label       benign, malignant or normal; blank if not known

    Optional columns, which may be blank:

      study       the visit: only images of one study are compared

      boxes       lesions in pixels, origin top left, x1 and y1 exclusive:
                  "x0 y0 x1 y1; x0 y0 x1 y1" (Parquet: lists of four)

      kinds       of findings: "mass; calcification" (Parquet: a list)

      bits        of values, if fewer than a PNG, PGM or TIFF file's

      chest_wall  left or right in this image; blank: see --chest-wall

    Every benign or malignant image is a target. Its reference is the image of the other side of the
    same patient, study and view, whatever its label; of several, the one in the nearest row.
    """

    file: Path = Field(description="the table: .csv, or .parquet")
    name: str = Field(
        "manifest", pattern=r"^[a-z0-9][a-z0-9_-]*$", description="the name in studies and reports"
    )
    chest_wall: Hanging = Field(
        "auto",
        description="auto: by each breast's shape; displayed: on the left in images of left breasts; "
        "mirrored: on the right in images of left breasts",
    )
    range: Literal["stored", "voi"] = Field(
        "stored",
        description="grey values of DICOM images; stored: linear from the stored range, as the paper; "
        "voi: by the modality and the first VOI table or window",
    )

    def reading(self) -> "ImageReading":
        """How its images are read."""
        return ImageReading(self.chest_wall, dicom.DicomOptions(range=self.range))


@dataclass(frozen=True)
class ListedFilm:
    """A row of a table, its number, and its file."""

    row: FilmRow
    number: int
    path: Path

    @property
    def side(self) -> Laterality:
        """L or R."""
        return self.row.laterality

    @property
    def abnormal(self) -> bool:
        """Benign or malignant; an unknown label does not count as abnormal."""
        return self.row.label in ("benign", "malignant")

    def film(self, hanging: Hanging = "auto") -> Film:
        """The film to be read; the column `chest_wall` takes precedence over the rule."""
        row, wall = self.row, self.row.chest_wall
        if wall is None and hanging != "auto":
            wall = "left" if (row.laterality == "L") == (hanging == "displayed") else "right"
        return Film(self.path, row.laterality, row.view, row.bits, wall)


class ImageReading(NamedTuple):
    """How images are read: where the chest wall is, and what DICOM values mean."""

    hanging: Hanging = "auto"
    dicom_options: dicom.DicomOptions = dicom.AS_STORED

    def loader(self, film: ListedFilm) -> Callable[[], RawImage]:
        """What loads the film."""
        return partial(read_image, film.film(self.hanging), self.dicom_options)


DEFAULT_READING = ImageReading()


def scan(options: Options, size: int = 224) -> Scan:  # noqa: ARG001 - images have their own size
    """Sec. IV-B. Every benign or malignant image with an image of the other side is a target.

    Raises:
        NotADatasetError: no table, or all problems of its rows.
    """
    films, missing = _films(options.file)
    messages = [f"row {film.number}: no file" for film in missing]
    return scan_films(options.name, films, messages, [options.file], options.reading())


def healthy(options: Options, size: int = 224) -> tuple[PairRecord, ...]:  # noqa: ARG001 - as scan
    """Sec. IV-D. Normal pairs of women without an abnormal image, for the test of the prior alone."""
    films, missing = _films(options.file)
    affected = {film.row.patient for film in (*films, *missing) if film.abnormal}
    normal = [film for film in films if film.row.label == "normal" and film.row.patient not in affected]
    pairs = [
        (match.target, match.reference)
        for match in match_films(normal)
        if match.reference and match.target.side == "L"
    ]
    return _records(pairs, options.reading(), open_pseudonyms())[0]


def scan_films(
    name: str,
    films: Sequence[ListedFilm],
    missing: Sequence[str],
    tables: Sequence[Path],
    reading: ImageReading = DEFAULT_READING,
) -> Scan:
    """The scan of films from any table: pairs them, names them and counts them.

    Args:
        name: of the scan.
        films: those whose files exist.
        missing: see `Scan`.
        tables: files that list the films.
        reading: how images are read.
    """
    pseudonyms = open_pseudonyms()
    targets = [match for match in match_films(films) if match.target.abnormal]
    pairs = [(match.target, match.reference) for match in targets if match.reference]
    records, files = _records(pairs, reading, pseudonyms)
    references = Counter(reference.row.label for _, reference in pairs)
    labels = Counter(record.label for record in records)
    return Scan(
        name=name,
        records=records,
        files=(*(RawFile.of(table, pseudonyms) for table in tables), *files),
        missing=tuple(missing),
        counts={
            "images": len(films),
            "labelled benign or malignant": len(targets),
            "of these without a contralateral image": len(targets) - len(pairs),
            "targets": len(records),
            "benign": labels[0],
            "malignant": labels[1],
            "women": len({record.patient_id for record in records}),
            "with a normal reference": references["normal"],
            "with a reference of unknown label": references[""],
            "with a lesion on both sides": sum(record.reference_has_lesion for record in records),
            "without a location": sum(not record.boxes for record in records),
        },
        notes=tuple(note for match in targets for note in _ambiguity(match)),
        key_id=pseudonyms.key_id,
    )


def match_films(films: Sequence[ListedFilm]) -> Iterator[Match[ListedFilm]]:
    """Sec. IV-B. Each film with those of the other side of its patient, study and view, nearest row first."""
    return contralateral(films, _group, _distance)


def list_films(table: Path) -> list[ListedFilm]:
    """The films of a table, whether or not their files exist. Raises NotADatasetError as `read_rows`."""
    return [ListedFilm(row, number, table.parent / row.image) for number, row in read_rows(table)]


def _films(table: Path) -> tuple[list[ListedFilm], list[ListedFilm]]:
    """Films whose files exist, and the others."""
    films = list_films(table)
    existing = {film.number for film in films if film.path.is_file()}
    return (
        [film for film in films if film.number in existing],
        [film for film in films if film.number not in existing],
    )


def _group(film: ListedFilm) -> tuple[str, str, str]:
    return film.row.patient, film.row.study, film.row.view


def _distance(a: ListedFilm, b: ListedFilm) -> int:
    return abs(a.number - b.number)


def _ambiguity(match: Match[ListedFilm]) -> Iterator[str]:
    if len(match.candidates) > 1:
        rows = ", ".join(str(candidate.number) for candidate in match.candidates)
        yield (
            f"row {match.target.number}: {len(match.candidates)} images of the other side in rows {rows}; "
            "the first of these is used"
        )


def _records(
    pairs: Sequence[tuple[ListedFilm, ListedFilm]], reading: ImageReading, pseudonyms: Pseudonyms
) -> tuple[tuple[PairRecord, ...], tuple[RawFile, ...]]:
    paths = sorted({film.path for pair in pairs for film in pair})
    files = {path: RawFile.of(path, pseudonyms) for path in paths}
    records = tuple(_record(*pair, reading, files, pseudonyms) for pair in pairs)
    return records, tuple(files.values())


def _record(
    target: ListedFilm,
    reference: ListedFilm,
    reading: ImageReading,
    files: Mapping[Path, RawFile],
    pseudonyms: Pseudonyms,
) -> PairRecord:
    row = target.row
    study = f"{row.patient}\n{row.study}"
    return PairRecord(
        pair_id=pseudonyms.of("pair", row.image),
        patient_id=pseudonyms.of("patient", row.patient),
        study_id=pseudonyms.of("study", study) if row.study else "",
        view=row.view,
        side=row.laterality,
        label=int(row.label == "malignant"),
        kinds=row.kinds,
        boxes=row.boxes,
        reference_has_lesion=reference.abnormal,
        load=partial(load_pair, reading.loader(target), reading.loader(reference)),
        films=(files[target.path].name, files[reference.path].name),
    )


# ---------------------------------------------------------------------------------------------- table


def read_rows(path: Path) -> list[tuple[int, FilmRow]]:
    """The rows of a table and their numbers, from 1.

    Raises:
        NotADatasetError: no table, wrong columns, or all problems of its rows.
    """
    columns, lines = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    problems = list(_column_problems(columns))
    rows: dict[str, tuple[int, FilmRow]] = {}
    for number, line in enumerate(() if problems else lines, 1):
        values = {name: value for name, value in line.items() if not _is_blank(value)}
        if not values:
            continue
        try:
            row = FilmRow.model_validate(values)
        except ValidationError as error:
            problems += [f"row {number}: {_described(problem)}" for problem in error.errors()]
            continue
        earlier, _ = rows.setdefault(row.image, (number, row))
        if earlier != number:
            problems.append(f"row {number}: image must be unique but row {earlier} has the same")
    if problems:
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise NotADatasetError(
            f"{path} (row 1 is the first below the header): {'; '.join(problems[:MAX_PROBLEMS] + more)}; "
            "'cgn cache manifest --help' explains the columns"
        )
    if not rows:
        raise NotADatasetError(f"{path} must have one row for each image but has none")
    return list(rows.values())


def _csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            delimiter = ";" if header.count(";") > header.count(",") else ","
            columns = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
            lines = list(csv.reader(stream, delimiter=delimiter, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NotADatasetError(f"cannot read {path} as CSV in UTF-8: {error}") from None
    names = [*columns, SURPLUS]
    return columns, [dict(zip(names, cells, strict=False)) for cells in lines]


def _parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise NotADatasetError(f"cannot read {path} as Parquet: {error}") from None
    return table.column_names, table.to_pylist()


def _column_problems(columns: list[str]) -> Iterator[str]:
    for name, field in FilmRow.model_fields.items():
        if (field.is_required() or name == "label") and name not in columns:
            yield f"column {name!r} is missing"
        if columns.count(name) > 1:
            yield f"column {name!r} must occur once but occurs {columns.count(name)} times"
    known = ", ".join(FilmRow.model_fields)
    for name in columns:
        if name not in FilmRow.model_fields:
            yield f"columns must be among {known} but got {name!r}"


def _is_blank(value: Any) -> bool:
    text = isinstance(value, str) and not value.strip()
    return text or value is None or value == [] or value != value  # the last is NaN


def _described(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if name == SURPLUS:
        return "a row must not have more cells than columns: quote cells that hold a separator"
    if problem["type"] == "missing":
        return f"{name} must be given"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{name} {message} but got {problem['input']!r}" if name else message
