"""mini-MIAS (Suckling et al. 1994): 322 MLO films of 161 women, PGM or PNG, with Info.txt.

The table has traps. Its coordinates start at the bottom left. Its prose swaps the sides: odd numbers are left
breasts, as labels and chest walls on the films show; 2k - 1 and 2k belong to one woman. A film may have
several rows. A row may lack its location ("*NOTE 3*", or nothing). Only lines that begin with a film's name,
a tissue letter and a space are rows; the prose before and after is not.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from cgn.data.boxes import Box
from cgn.data.breast import Laterality, Wall
from cgn.data.datasets import DatasetOptions, FilmRecord, RawFile, Scan
from cgn.data.reading import raster
from cgn.data.records import PairRecord, RawImage, load_pair
from cgn.errors import NotADatasetError, Reason, UnreadableImageError

SIDE = 1024
"""All films have this many rows and columns; coordinates in Info.txt refer to them."""

COHORTS = {
    "mass": {"CIRC", "SPIC", "MISC"},
    "mixed": {"CIRC", "SPIC", "MISC", "CALC", "ARCH"},
    "all": {"CIRC", "SPIC", "MISC", "CALC", "ARCH", "ASYM"},
}
"""Sec. IV-A. Masses; the paper's mixed lesions (masses, calcifications, distortions); asymmetries too."""

ROW = re.compile(r"^mdb(\d{3})\s+[FGD]\s+(\w+)(?:\s+([BM])(?:\s+(\d+)\s+(\d+)\s+(\d+))?)?")
FILM = re.compile(r"mdb(\d{3})\.(?:pgm|png)", re.IGNORECASE)


class Options(DatasetOptions):
    """Which films of mini-MIAS, and where they are."""

    raw: Path = Field(description="folder with Info.txt and the films, mdb001.pgm or mdb001.png and so on")
    cohort: Literal["mass", "mixed", "all"] = Field(
        "all",
        description="mass: CIRC, SPIC, MISC; mixed: these with CALC and ARCH; all: every abnormal film",
    )


class Lesion(NamedTuple):
    """A row of Info.txt about an abnormal film: kind, severity, and location in pixels, origin top left."""

    kind: str
    malignant: bool
    box: Box | None


def scan(options: Options, size: int = 224) -> Scan:  # noqa: ARG001 - films have their own size
    """Sec. IV-A. Every abnormal film of the cohort is a target; the same woman's other film is its reference.

    The label is the worst severity of the film's lesions of the cohort.

    Raises:
        NotADatasetError: no folder, no Info.txt with rows, or no film.
    """
    table, films = _table(options.raw), _films(options.raw)
    lesions = {
        number: tuple(lesion for lesion in rows if lesion.kind in COHORTS[options.cohort])
        for number, rows in table.items()
    }
    targets = [number for number in sorted(table) if lesions[number]]
    missing = [
        f"mdb{number:03d}, {role} of mdb{target:03d}"
        for target in targets
        for number, role in ((target, "film"), (_other(target), "reference"))
        if number not in films
    ]
    present = [number for number in targets if number in films and _other(number) in films]
    records = tuple(
        _record(number, lesions[number], bool(table.get(_other(number))), films) for number in present
    )
    used = sorted({film for number in present for film in (number, _other(number))})
    labels = Counter(record.label for record in records)
    return Scan(
        name=f"mias-{options.cohort}",
        records=records,
        files=(RawFile.of(_info(options.raw)), *(RawFile.of(films[number]) for number in used)),
        missing=tuple(missing),
        counts={
            "films in Info.txt": len(table),
            "films in the folder": len(films),
            "targets": len(records),
            "benign": labels[0],
            "malignant": labels[1],
            "with a lesion-free reference": sum(not record.reference_has_lesion for record in records),
            "without a location": sum(not record.boxes for record in records),
        },
        sandboxed=False,
    )


def healthy(options: Options, size: int = 224) -> tuple[PairRecord, ...]:  # noqa: ARG001 - as scan
    """Sec. IV-D. Pairs of women without an abnormal film, for the test of the prior; never for training."""
    table, films = _table(options.raw), _films(options.raw)
    normal = {number for number, lesions in table.items() if not lesions and number in films}
    left_breasts = [number for number in sorted(normal) if number % 2 and _other(number) in normal]
    return tuple(_record(number, (), False, films) for number in left_breasts)


def healthy_films(options: Options, size: int = 224) -> tuple[FilmRecord, ...]:  # noqa: ARG001 - as scan
    """Reading 40. Every film that Info.txt calls NORM, also those of women with an abnormal film."""
    table, films = _table(options.raw), _films(options.raw)
    targets = {
        number
        for number, lesions in table.items()
        if any(lesion.kind in COHORTS[options.cohort] for lesion in lesions)
    }
    return tuple(
        FilmRecord(
            film_id=f"mdb{number:03d}",
            patient_id=_patient(number),
            view="MLO",
            side=_side(number),
            no_finding=True,
            no_cohort_finding=True,
            load=partial(_image, films[number]),
            film=RawFile.of(films[number]),
            reference_of=f"mdb{_other(number):03d}" if _other(number) in targets else "",
        )
        for number, lesions in sorted(table.items())
        if not lesions and number in films
    )


def _record(
    number: int, lesions: Sequence[Lesion], reference_has_lesion: bool, films: dict[int, Path]
) -> PairRecord:
    target, reference = films[number], films[_other(number)]
    return PairRecord(
        pair_id=f"mdb{number:03d}",
        patient_id=_patient(number),
        view="MLO",
        side=_side(number),
        label=int(any(lesion.malignant for lesion in lesions)),
        kinds=tuple(dict.fromkeys(lesion.kind for lesion in lesions)),
        boxes=tuple(lesion.box for lesion in lesions if lesion.box),
        reference_has_lesion=reference_has_lesion,
        load=partial(load_pair, partial(_image, target), partial(_image, reference)),
        films=(target.name, reference.name),
    )


def _patient(number: int) -> str:
    return f"mias-{(number + 1) // 2:03d}"


def _other(number: int) -> int:
    return number + 1 if number % 2 else number - 1


def _side(number: int) -> Laterality:
    return "L" if number % 2 else "R"


def _wall(number: int) -> Wall:
    """Left breasts have the chest wall on the right: seen on films, and checked on the shapes of all 322."""
    return "right" if number % 2 else "left"


def _info(folder: Path) -> Path:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in paths:
        if path.name.lower() == "info.txt":
            return path
    raise NotADatasetError(f"no Info.txt in {folder}: mias needs a folder with Info.txt and its films")


def _table(folder: Path) -> dict[int, tuple[Lesion, ...]]:
    """The lesions of every film in Info.txt; empty for a normal film."""
    table: dict[int, tuple[Lesion, ...]] = {}
    for line in _info(folder).read_text("latin-1").splitlines():
        row = ROW.match(line)
        if row is None:
            continue
        number, kind, severity, *circle = row.groups()
        lesions = table.setdefault(int(number), ())
        if kind != "NORM":
            box = _square(*map(int, circle)) if all(circle) else None
            table[int(number)] = (*lesions, Lesion(kind, severity == "M", box))
    if not table:
        raise NotADatasetError(f"no row like 'mdb001 G CIRC B 535 425 197' in {_info(folder)}")
    return table


def _square(x: int, y: int, radius: int) -> Box:
    row = SIDE - 1 - y
    return float(x - radius), float(row - radius), float(x + radius + 1), float(row + radius + 1)


def _films(folder: Path) -> dict[int, Path]:
    names = ((FILM.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    films = {int(name[1]): path for name, path in names if name}
    if not films:
        raise NotADatasetError(f"no film like mdb001.pgm or mdb001.png in {folder}")
    return films


def _image(path: Path) -> RawImage:
    try:
        pixels, bits = raster.read(path)
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{path.name}: {error}", error.reason) from None
    if pixels.shape != (SIDE, SIDE):
        raise UnreadableImageError(
            f"{path.name} must have {SIDE} x {SIDE} pixels, to which Info.txt refers, but has "
            f"{' x '.join(map(str, pixels.shape))}",
            Reason.WRONG_SIZE,
        )
    return RawImage(pixels, bits, _wall(int(path.stem[3:])))
