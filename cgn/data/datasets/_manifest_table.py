"""The table of a manifest: its columns, and the rows of a CSV or Parquet file.

All problems of a table are reported together. Unknown columns are refused: a misspelt column would be lost,
and an additional one may hold personal data. Names that differ in spelling only are refused too: one woman
under two names could train a network and test it.
"""

import csv
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cgn.data.boxes import Box
from cgn.data.breast import Laterality, Wall
from cgn.data.reading import raster
from cgn.errors import NotADatasetError

MAX_PROBLEMS = 20
"""Number of problems that a message lists; a table with a wrong column has one in every row."""

SURPLUS = "surplus cells"

ONE_SPELLING = ("patient", "study", "view")
"""Columns whose equal values mean the same thing, so that one thing must not have two spellings."""


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
    """One image; `manifest.Options` explains the columns."""

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


def read_rows(path: Path) -> list[tuple[int, FilmRow]]:
    """The rows of a table and their numbers, from 1.

    Raises:
        NotADatasetError: no table, wrong columns, or all problems of its rows.
    """
    columns, lines = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    problems = list(_column_problems(columns))
    rows: list[tuple[int, FilmRow]] = []
    for number, line in enumerate(() if problems else lines, 1):
        values = {name: value for name, value in line.items() if not _is_blank(value)}
        if not values:
            continue
        try:
            rows.append((number, FilmRow.model_validate(values)))
        except ValidationError as error:
            problems += [f"row {number}: {_described(problem)}" for problem in error.errors()]
    problems += _name_problems(rows, path.parent)
    if problems:
        raise refused(path, problems)
    if not rows:
        raise NotADatasetError(f"{path} must have one row for each image but has none")
    return rows


def _name_problems(rows: Sequence[tuple[int, FilmRow]], folder: Path) -> Iterator[str]:
    """Images that are listed twice, and names that differ in spelling only."""
    images: dict[str, tuple[int, str]] = {}
    spellings: dict[tuple[str, str], dict[str, int]] = {}
    for number, row in rows:
        key = spelling_key(os.path.normpath(folder / row.image))
        earlier, image = images.setdefault(key, (number, row.image))
        if earlier != number:
            has = "has the same" if image == row.image else "has the same in another spelling"
            yield f"row {number}: image must be unique but row {earlier} {has}"
        for column in ONE_SPELLING:
            name = getattr(row, column)
            known = spellings.setdefault((column, spelling_key(name)), {name: number})
            if known.setdefault(name, number) == number and len(known) > 1:
                yield (
                    f"row {number}: {column} must not differ from that of row {next(iter(known.values()))} "
                    "in spelling only: write it in one way"
                )


def spelling_key(name: str) -> str:
    """Equal for names that look alike: Unicode form, case, blanks and invisible characters do not count."""
    visible = (letter for letter in name if unicodedata.category(letter) != "Cf")
    folded = unicodedata.normalize("NFKC", "".join(visible)).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def refused(table: Path, problems: Sequence[str]) -> NotADatasetError:
    """The error for a table, with all its problems in one line."""
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    return NotADatasetError(
        f"{table} (row 1 is the first below the header): {'; '.join([*problems[:MAX_PROBLEMS], *more])}; "
        "'cgn cache manifest --help' explains the columns"
    )


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
