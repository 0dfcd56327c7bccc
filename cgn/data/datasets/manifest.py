"""Your own films: a table with one row an image, CSV or Parquet (the paper's in-house set, Sec. IV-B).

Every problem of the table is told at once. Columns are not guessed: a misspelt one would lose what it
holds, and one too many may hold what nobody should copy.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cgn.data import dicom, raster
from cgn.data.breast import Laterality, chest_wall_of, find_breast
from cgn.data.datasets import DatasetOptions, Image, PairRecord, RawFile, Scan, load_pair
from cgn.data.pairing import Pair, contralateral
from cgn.data.pairs import Box
from cgn.data.pseudonym import Pseudonyms, open_pseudonyms
from cgn.errors import NotADatasetError, Reason, UnreadableImageError

MOST_PROBLEMS = 20
"""So many are spelt out; a table with a wrong column has one in every row."""

BEYOND = "beyond the last column"

Hanging = Literal["auto", "displayed", "mirrored"]


def _listed(value: Any) -> Any:
    """The parts of a text between semicolons; anything else as it is."""
    return [part.strip() for part in value.split(";") if part.strip()] if isinstance(value, str) else value


def _boxed(value: Any) -> list[list[float]]:
    try:
        parts = (part.split() if isinstance(part, str) else part for part in _listed(value))
        boxes = [[float(number) for number in part] for part in parts]
    except (TypeError, ValueError):
        boxes = [[]]
    if not all(len(b) == 4 and 0 <= b[0] < b[2] and 0 <= b[1] < b[3] for b in boxes):
        raise ValueError("must be 'x0 y0 x1 y1; x0 y0 x1 y1' with 0 <= x0 < x1 and 0 <= y0 < y1")
    return boxes


class Row(BaseModel):
    """One image, as `Options` explains it."""

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
    chest_wall: Literal["left", "right"] | None = None

    @model_validator(mode="after")
    def _bits_fit_the_file(self) -> "Row":
        if self.bits and not self.image.lower().endswith(raster.SUFFIXES):
            raise ValueError("bits must be blank where the image is DICOM, which tells its own")
        return self


class How(NamedTuple):
    """How images are read: where the chest wall stands, and what DICOM values mean."""

    hanging: Hanging = "auto"
    values: dicom.DicomOptions = dicom.AS_STORED


class Options(DatasetOptions):
    """Your own films: a table with one row an image, CSV (comma or semicolon) or Parquet.

    Columns that must be there:

      image       file, relative to the table: .png .pgm .tif, or else DICOM

      patient     any name or number; replaced by a pseudonym

      laterality  L or R

      view        CC, MLO or another word

      label       benign, malignant or normal; blank where not known

    Columns that may be there, and may be blank:

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
        "manifest", pattern=r"^[a-z0-9][a-z0-9_-]*$", description="what to call it, in studies and reports"
    )
    chest_wall: Hanging = Field(
        "auto",
        description="auto: told from each breast's shape; displayed: on the left of left breasts' images; "
        "mirrored: on the right of them",
    )
    range: Literal["stored", "voi"] = Field(
        "stored",
        description="grey values of DICOM images; stored: linear from the stored range, as the paper; "
        "voi: by the modality and the first VOI table or window",
    )

    def how(self) -> How:
        """How its images are read."""
        return How(self.chest_wall, dicom.DicomOptions(range=self.range))


@dataclass(frozen=True)
class Film:
    """A row of the table, its number, and its file."""

    row: Row
    number: int
    path: Path

    @property
    def side(self) -> Laterality:
        """L or R."""
        return self.row.laterality

    @property
    def abnormal(self) -> bool:
        """Benign or malignant; what is not known is not counted as abnormal."""
        return self.row.label in ("benign", "malignant")


def scan(options: Options, size: int = 224) -> Scan:  # noqa: ARG001 - images have their own size
    """Sec. IV-B. Every benign or malignant image with one of the other side is a target.

    Raises:
        NotADatasetError: no table, or every problem of its rows.
    """
    films, missing = _films(options.file)
    told = [f"row {film.number}: no file" for film in missing]
    return scan_films(options.name, films, told, [options.file], options.how())


def healthy(options: Options, size: int = 224) -> tuple[PairRecord, ...]:  # noqa: ARG001 - as scan
    """Sec. IV-D. Normal pairs of women without an abnormal image: for the test of the prior alone."""
    films, missing = _films(options.file)
    ill = {film.row.patient for film in (*films, *missing) if film.abnormal}
    normal = [film for film in films if film.row.label == "normal" and film.row.patient not in ill]
    paired = contralateral(normal, _group, _apart)
    pairs = [(pair.target, pair.reference) for pair in paired if pair.reference and pair.target.side == "L"]
    return _records(pairs, options.how(), open_pseudonyms())[0]


def scan_films(
    name: str, films: Sequence[Film], missing: Sequence[str], tables: Sequence[Path], how: How | None = None
) -> Scan:
    """A scan of films that came from any table: how they are paired, named and counted."""
    pseudonyms = open_pseudonyms()
    targets = [pair for pair in contralateral(films, _group, _apart) if pair.target.abnormal]
    pairs = [(pair.target, pair.reference) for pair in targets if pair.reference]
    records, files = _records(pairs, how or How(), pseudonyms)
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
        notes=tuple(note for pair in targets for note in _doubts(pair)),
        key_id=pseudonyms.key_id,
    )


def _films(table: Path) -> tuple[list[Film], list[Film]]:
    """Those whose files are there, and the others."""
    films = [Film(row, number, table.parent / row.image) for number, row in read_rows(table)]
    there = {film.number for film in films if film.path.is_file()}
    return [f for f in films if f.number in there], [f for f in films if f.number not in there]


def _group(film: Film) -> tuple[str, str, str]:
    return film.row.patient, film.row.study, film.row.view


def _apart(a: Film, b: Film) -> int:
    return abs(a.number - b.number)


def _doubts(pair: Pair[Film]) -> Iterator[str]:
    if len(pair.others) > 1:
        yield (
            f"row {pair.target.number}: {len(pair.others)} images of the other side in rows "
            f"{', '.join(str(other.number) for other in pair.others)}, the first of these was taken"
        )


def _records(
    pairs: Sequence[tuple[Film, Film]], how: How, pseudonyms: Pseudonyms
) -> tuple[tuple[PairRecord, ...], tuple[RawFile, ...]]:
    paths = sorted({film.path for pair in pairs for film in pair})
    files = {path: RawFile.of(path, pseudonyms) for path in paths}
    return tuple(_record(*pair, how, files, pseudonyms) for pair in pairs), tuple(files.values())


def _record(
    target: Film, reference: Film, how: How, files: Mapping[Path, RawFile], pseudonyms: Pseudonyms
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
        load=partial(load_pair, partial(_image, target, how), partial(_image, reference, how)),
        films=(files[target.path].name, files[reference.path].name),
    )


# ---------------------------------------------------------------------------------------------- table


def read_rows(path: Path) -> list[tuple[int, Row]]:
    """The rows of a table and their numbers, from 1.

    Raises:
        NotADatasetError: no table, other columns, or every problem of its rows.
    """
    columns, lines = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    problems = list(_column_problems(columns))
    rows: dict[str, tuple[int, Row]] = {}
    for number, line in enumerate(() if problems else lines, 1):
        given = {name: value for name, value in line.items() if not _is_blank(value)}
        if not given:
            continue
        try:
            row = Row.model_validate(given)
        except ValidationError as error:
            problems += [f"row {number}: {_plain(e)}" for e in error.errors()]
            continue
        earlier, _ = rows.setdefault(row.image, (number, row))
        if earlier != number:
            problems.append(f"row {number}: image must be another one but row {earlier} has it too")
    if problems:
        more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        raise NotADatasetError(
            f"{path}, row 1 being the one below the header: {'; '.join(problems[:MOST_PROBLEMS] + more)}; "
            "'cgn cache manifest --help' explains the columns"
        )
    if not rows:
        raise NotADatasetError(f"{path} must have one row an image but has none")
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
    names = [*columns, BEYOND]
    return columns, [dict(zip(names, cells, strict=False)) for cells in lines]


def _parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise NotADatasetError(f"cannot read {path} as Parquet: {error}") from None
    return table.column_names, table.to_pylist()


def _column_problems(columns: list[str]) -> Iterator[str]:
    for name, field in Row.model_fields.items():
        if (field.is_required() or name == "label") and name not in columns:
            yield f"there must be a column {name!r}"
        if columns.count(name) > 1:
            yield f"there must be one column {name!r} but there are {columns.count(name)}"
    known = ", ".join(Row.model_fields)
    for name in columns:
        if name not in Row.model_fields:
            yield f"columns must be among {known} but there is {name!r}"


def _is_blank(value: Any) -> bool:
    text = isinstance(value, str) and not value.strip()
    return text or value is None or value == [] or value != value  # the last is NaN


def _plain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if name == BEYOND:
        return "there must not be more cells than columns: quote a cell that holds a separator"
    if error["type"] == "missing":
        return f"{name} must be given"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return f"{name} {message} but got {error['input']!r}" if name else message


# --------------------------------------------------------------------------------------------- films


def _image(film: Film, how: How) -> Image:
    row = film.row
    if film.path.name.lower().endswith(raster.SUFFIXES):
        pixels, depth = raster.read(film.path)
        bits = row.bits or depth
        if bits > depth:
            raise UnreadableImageError(f"the table says {bits} bits but the file has {depth}", Reason.DEPTH)
    else:
        pixels, bits = dicom.read(film.path, laterality=row.laterality, options=how.values)
    if row.chest_wall:
        return Image(pixels, bits, row.chest_wall)
    if how.hanging == "auto":
        return Image(pixels, bits, chest_wall_of(find_breast(pixels, bits)))
    return Image(pixels, bits, "left" if (row.laterality == "L") == (how.hanging == "displayed") else "right")
