"""The way back from a pseudonym, for the holder of its key: what a raw folder shows, hashed and compared."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cgn.data import dicom
from cgn.data.pseudonym import Pseudonyms
from cgn.errors import NotADatasetError, UnreadableImageError

LARGEST_TABLE = 2**26
"""Bytes of a CSV file whose cells are looked at."""

BETWEEN = re.compile(r"([\s_./-]+)")


def files_of(wanted: Sequence[str], folder: Path, pseudonyms: Pseudonyms) -> dict[str, list[str]]:
    """Paths below `folder` that pseudonyms stand for; of a table, with the number of its line.

    Looked at are the content of a file (`film-...`), each part of its path, the identities in a DICOM
    header, and the cells of tables.

    Raises:
        NotADatasetError: the folder is none.
    """
    if not folder.is_dir():
        raise NotADatasetError(f"no folder {folder}: give the one with the raw files")
    found: dict[str, list[str]] = {pseudonym: [] for pseudonym in wanted}
    kinds = {pseudonym.rpartition("-")[0] for pseudonym in wanted}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for value, where in _shown(path, folder, "film" in kinds):
            for kind in kinds:
                places = found.get(pseudonyms.of(kind, value))
                if places is not None and where not in places:
                    places.append(where)
    return found


def _shown(path: Path, folder: Path, content: bool) -> Iterator[tuple[str, str]]:
    """Values that may have been made a pseudonym, and where they stand."""
    where = str(path)
    if content:
        with path.open("rb") as file:
            yield hashlib.file_digest(file, "sha256").hexdigest(), where
    yield from ((part, where) for part in _parts(path.relative_to(folder).as_posix()))
    if path.suffix.lower() in (".csv", ".tsv", ".txt") and path.stat().st_size <= LARGEST_TABLE:
        for number, line in enumerate(path.read_text("latin-1").splitlines(), 1):
            for cell in re.split(r"[,;\t]", line):
                yield cell.strip().strip('"'), f"{where}:{number}"
        return
    try:
        header = dicom.read_header(path)
    except UnreadableImageError:
        return
    for value in (header.patient, header.study):
        if value is not None:
            yield value, where


def _parts(name: str) -> Iterator[str]:
    """Every run of words of a path: `a_b/c.dcm` gives a, a_b, a_b/c, a_b/c.dcm, b, b/c and so on."""
    words = BETWEEN.split(name)
    for start in range(0, len(words), 2):
        for end in range(start + 1, len(words) + 1, 2):
            yield "".join(words[start:end])
