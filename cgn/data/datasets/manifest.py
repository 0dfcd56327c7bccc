"""Your own films: a table with one row for each image, CSV or Parquet (the paper's in-house set, Sec. IV-B).

A film that is in the table twice must have the same facts in both rows: one film cannot be of two women.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from cgn.data.breast import Laterality
from cgn.data.datasets import DatasetOptions, FilmRecord, RawFile, Scan
from cgn.data.datasets._manifest_table import FilmRow, read_rows, refused
from cgn.data.identity.pseudonym import Pseudonyms, open_pseudonyms
from cgn.data.pairing import Match, contralateral
from cgn.data.reading import dicom
from cgn.data.reading.films import Film, read_film, read_pair
from cgn.data.records import PairRecord, RawPair

Hanging = Literal["auto", "displayed", "mirrored"]


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

    def loader(self, target: ListedFilm, reference: ListedFilm) -> Callable[[], RawPair]:
        """What loads the films of a pair."""
        hanging = self.hanging
        return partial(read_pair, target.film(hanging), reference.film(hanging), self.dicom_options)


DEFAULT_READING = ImageReading()


def scan(options: Options, size: int = 224) -> Scan:  # noqa: ARG001 - images have their own size
    """Sec. IV-B. Every benign or malignant image with an image of the other side is a target.

    Raises:
        NotADatasetError: no table, or all problems of its rows.
    """
    films, missing = _films(options.file)
    messages = [f"row {film.number}: no file" for film in missing]
    scanned = scan_films(options.name, films, messages, [options.file], options.reading())
    pairs = target_pairs(films)
    listed = [
        replace(record, rows=(target.number, reference.number))
        for record, (target, reference) in zip(scanned.records, pairs, strict=True)
    ]
    notes = _same_content(options.file, pairs, listed)
    return replace(scanned, records=tuple(listed), notes=(*scanned.notes, *notes))


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
    records, _ = _records(pairs, options.reading(), open_pseudonyms())
    _same_content(options.file, pairs, records)
    return records


def healthy_films(options: Options, size: int = 224) -> tuple[FilmRecord, ...]:  # noqa: ARG001 - as scan
    """Reading 40. Every image labelled normal; a blank label says nothing."""
    films, _ = _films(options.file)
    reading, pseudonyms = options.reading(), open_pseudonyms()
    reference_of = {
        reference.path: pseudonyms.of("pair", target.row.image) for target, reference in target_pairs(films)
    }
    return tuple(
        _healthy_film(film, reading, pseudonyms, reference_of.get(film.path, ""))
        for film in films
        if film.row.label == "normal"
    )


def _healthy_film(
    film: ListedFilm, reading: ImageReading, pseudonyms: Pseudonyms, reference_of: str
) -> FilmRecord:
    row, file = film.row, RawFile.of(film.path, pseudonyms)
    return FilmRecord(
        film_id=file.name,
        patient_id=pseudonyms.of("patient", row.patient),
        study_id=_study(row, pseudonyms),
        view=row.view,
        side=row.laterality,
        no_finding=True,
        no_cohort_finding=True,
        load=partial(read_film, film.film(reading.hanging), reading.dicom_options),
        film=file,
        reference_of=reference_of,
    )


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
    pairs = target_pairs(films)
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


def target_pairs(films: Sequence[ListedFilm]) -> list[tuple[ListedFilm, ListedFilm]]:
    """Every abnormal film that has a reference, and its reference, in the order of `films`."""
    matches = [match for match in match_films(films) if match.target.abnormal]
    return [(match.target, match.reference) for match in matches if match.reference]


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


def _same_content(
    table: Path, pairs: Sequence[tuple[ListedFilm, ListedFilm]], records: Sequence[PairRecord]
) -> list[str]:
    """Notes on files that are in the table twice.

    Raises:
        NotADatasetError: two such rows contradict each other: one film cannot be of two women.
    """
    films = {
        film.number: (film, name)
        for pair, record in zip(pairs, records, strict=True)
        for film, name in zip(pair, record.films, strict=True)
    }
    problems, notes = [], []
    first: dict[str, ListedFilm] = {}  # by pseudonym, which is that of the content
    for _, (film, name) in sorted(films.items()):
        earlier = first.setdefault(name, film)
        if contradictory := _contradictory(film.row, earlier.row):
            problems.append(
                f"row {film.number}: {' and '.join(contradictory)} must be as in row {earlier.number}, "
                "since the files have the same content"
            )
        elif earlier is not film:
            notes.append(
                f"row {film.number}: the file has the same content as that of row {earlier.number}, "
                "and both are used"
            )
    if problems:
        raise refused(table, problems)
    return notes


def _contradictory(one: FilmRow, other: FilmRow) -> list[str]:
    """Columns that must be equal for one film and are not; a blank label contradicts none."""
    names = ["patient", "laterality", "view", *(["label"] if one.label and other.label else [])]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


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
    return PairRecord(
        pair_id=pseudonyms.of("pair", row.image),
        patient_id=pseudonyms.of("patient", row.patient),
        study_id=_study(row, pseudonyms),
        view=row.view,
        side=row.laterality,
        label=int(row.label == "malignant"),
        kinds=row.kinds,
        boxes=row.boxes,
        reference_has_lesion=reference.abnormal,
        load=reading.loader(target, reference),
        films=(files[target.path].name, files[reference.path].name),
    )


def _study(row: FilmRow, pseudonyms: Pseudonyms) -> str:
    """The pseudonym of the visit; "" if the table does not state it."""
    return pseudonyms.of("study", f"{row.patient}\n{row.study}") if row.study else ""
