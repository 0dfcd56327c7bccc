"""mini-MIAS (Suckling et al. 1994): 322 MLO films of 161 women, PGM or PNG, with Info.txt.

The table has traps. Its coordinates start at the bottom left. Its prose swaps the sides: odd numbers
are left breasts, as the films' labels and chest walls tell; 2k - 1 and 2k are one woman. A film may
have several rows, a row may lack its place ("*NOTE 3*", or nothing), and only lines that begin with a
film's name, a tissue letter and a space are rows: the prose before and after is not.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from cgn.data import raster
from cgn.data.breast import Laterality, Wall
from cgn.data.datasets import DatasetOptions, Image, PairRecord, RawFile, Scan, load_pair
from cgn.data.pairs import Box
from cgn.errors import NotADatasetError, Reason, UnreadableImageError

SIDE = 1024
"""All films have this many rows and columns; Info.txt counts in them."""

COHORTS = {
    "mass": {"CIRC", "SPIC", "MISC"},
    "mixed": {"CIRC", "SPIC", "MISC", "CALC", "ARCH"},
    "all": {"CIRC", "SPIC", "MISC", "CALC", "ARCH", "ASYM"},
}
"""Sec. IV-A. Masses; the paper's mixed lesions (masses, calcifications, distortions); asymmetries too."""

ROW = re.compile(r"^mdb(\d{3})\s+[FGD]\s+(\w+)(?:\s+([BM])(?:\s+(\d+)\s+(\d+)\s+(\d+))?)?")
FILM = re.compile(r"mdb(\d{3})\.(?:pgm|png)", re.IGNORECASE)


class Options(DatasetOptions):
    """What of mini-MIAS to take, and where it lies."""

    raw: Path = Field(description="folder with Info.txt and the films, mdb001.pgm or mdb001.png and so on")
    cohort: Literal["mass", "mixed", "all"] = Field(
        "all",
        description="mass: CIRC, SPIC, MISC; mixed: these with CALC and ARCH; all: every abnormal film",
    )


class Finding(NamedTuple):
    """One row about an abnormal film: its kind, its severity and its place in pixels, origin top left."""

    kind: str
    malignant: bool
    box: Box | None


def scan(options: Options, size: int = 224) -> Scan:  # noqa: ARG001 - films have their own size
    """Sec. IV-A. Every abnormal film of the cohort is a target, the same woman's other film its reference.

    The label is the worst severity of the film's findings of the cohort.

    Raises:
        NotADatasetError: no folder, no Info.txt with rows, or no film.
    """
    table, films = _table(options.raw), _films(options.raw)
    findings = {
        number: tuple(f for f in rows if f.kind in COHORTS[options.cohort]) for number, rows in table.items()
    }
    targets = [number for number in sorted(table) if findings[number]]
    missing = [
        f"mdb{number:03d}, {role} of mdb{target:03d}"
        for target in targets
        for number, role in ((target, "film"), (_other(target), "reference"))
        if number not in films
    ]
    present = [n for n in targets if n in films and _other(n) in films]
    records = tuple(_record(n, findings[n], bool(table.get(_other(n))), films) for n in present)
    used = sorted({film for n in present for film in (n, _other(n))})
    labels = Counter(record.label for record in records)
    return Scan(
        name=f"mias-{options.cohort}",
        records=records,
        files=(RawFile.of(_info(options.raw)), *(RawFile.of(films[n]) for n in used)),
        missing=tuple(missing),
        counts={
            "films in Info.txt": len(table),
            "films in the folder": len(films),
            "targets": len(records),
            "benign": labels[0],
            "malignant": labels[1],
            "with a lesion-free reference": sum(not r.reference_has_lesion for r in records),
            "without a location": sum(not r.boxes for r in records),
        },
        contained=False,
    )


def healthy(options: Options, size: int = 224) -> tuple[PairRecord, ...]:  # noqa: ARG001 - as scan
    """Sec. IV-D. Pairs of women without an abnormal film: for the test of the prior, never for training."""
    table, films = _table(options.raw), _films(options.raw)
    normal = {number for number, findings in table.items() if not findings and number in films}
    return tuple(_record(n, (), False, films) for n in sorted(normal) if n % 2 and _other(n) in normal)


def _record(number: int, findings: Sequence[Finding], both: bool, films: dict[int, Path]) -> PairRecord:
    return PairRecord(
        pair_id=f"mdb{number:03d}",
        patient_id=f"mias-{(number + 1) // 2:03d}",
        view="MLO",
        side=_side(number),
        label=int(any(f.malignant for f in findings)),
        kinds=tuple(dict.fromkeys(f.kind for f in findings)),
        boxes=tuple(f.box for f in findings if f.box),
        reference_has_lesion=both,
        load=partial(load_pair, partial(_film, films[number]), partial(_film, films[_other(number)])),
        films=(films[number].name, films[_other(number)].name),
    )


def _other(number: int) -> int:
    return number + 1 if number % 2 else number - 1


def _side(number: int) -> Laterality:
    return "L" if number % 2 else "R"


def _wall(number: int) -> Wall:
    """Left breasts hang with the chest wall on the right; looked at, and checked against all 322 shapes."""
    return "right" if number % 2 else "left"


def _info(folder: Path) -> Path:
    found = [p for p in sorted(folder.iterdir()) if p.name.lower() == "info.txt"] if folder.is_dir() else []
    if not found:
        raise NotADatasetError(f"no Info.txt in {folder}: mias needs a folder with Info.txt and its films")
    return found[0]


def _table(folder: Path) -> dict[int, tuple[Finding, ...]]:
    """Findings of every film that Info.txt names; none for a normal film."""
    table: dict[int, tuple[Finding, ...]] = {}
    for line in _info(folder).read_text("latin-1").splitlines():
        row = ROW.match(line)
        if row is None:
            continue
        number, kind, severity, *circle = row.groups()
        findings = table.setdefault(int(number), ())
        if kind != "NORM":
            box = _square(*map(int, circle)) if all(circle) else None
            table[int(number)] = (*findings, Finding(kind, severity == "M", box))
    if not table:
        raise NotADatasetError(f"no row like 'mdb001 G CIRC B 535 425 197' in {_info(folder)}")
    return table


def _square(x: int, y: int, radius: int) -> Box:
    row = SIDE - 1 - y
    return float(x - radius), float(row - radius), float(x + radius + 1), float(row + radius + 1)


def _films(folder: Path) -> dict[int, Path]:
    found = ((FILM.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    films = {int(name[1]): path for name, path in found if name}
    if not films:
        raise NotADatasetError(f"no film like mdb001.pgm or mdb001.png in {folder}")
    return films


def _film(path: Path) -> Image:
    try:
        pixels, bits = raster.read(path)
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{path.name}: {error}", error.reason) from None
    if pixels.shape != (SIDE, SIDE):
        raise UnreadableImageError(
            f"{path.name} must have {SIDE} x {SIDE} pixels, for Info.txt counts in them, but has "
            f"{' x '.join(map(str, pixels.shape))}",
            Reason.WRONG_SIZE,
        )
    return Image(pixels, bits, _wall(int(path.stem[3:])))
