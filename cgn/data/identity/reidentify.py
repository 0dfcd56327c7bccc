"""From pseudonyms back to raw files, for the holder of the key: hash what a raw folder shows, and compare."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cgn.data.identity.pseudonym import Pseudonyms
from cgn.data.reading import dicom
from cgn.errors import NotADatasetError, UnreadableImageError

LARGEST_TABLE = 2**26
"""Bytes of a CSV file up to which its cells are hashed."""

SEPARATOR = re.compile(r"([\s_./-]+)")


def find_files(wanted: Sequence[str], folder: Path, pseudonyms: Pseudonyms) -> dict[str, list[str]]:
    """The paths below `folder` that each pseudonym stands for; in a table, with the number of the line.

    Hashed are the content of a file (`film-...`), the parts of its path, the identities in a DICOM header,
    and the cells of tables.

    Raises:
        NotADatasetError: there is no such folder.
    """
    if not folder.is_dir():
        raise NotADatasetError(f"no folder {folder}: give the one with the raw files")
    matches: dict[str, list[str]] = {pseudonym: [] for pseudonym in wanted}
    kinds = {pseudonym.rpartition("-")[0] for pseudonym in wanted}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for value, location in _values(path, folder, with_content="film" in kinds):
            for kind in kinds:
                locations = matches.get(pseudonyms.of(kind, value))
                if locations is not None and location not in locations:
                    locations.append(location)
    return matches


def _values(path: Path, folder: Path, *, with_content: bool) -> Iterator[tuple[str, str]]:
    """Values from which a pseudonym may have been made, and their locations."""
    location = str(path)
    if with_content:
        with path.open("rb") as file:
            yield hashlib.file_digest(file, "sha256").hexdigest(), location
    yield from ((part, location) for part in _parts(path.relative_to(folder).as_posix()))
    if path.suffix.lower() in (".csv", ".tsv", ".txt") and path.stat().st_size <= LARGEST_TABLE:
        for number, line in enumerate(path.read_text("latin-1").splitlines(), 1):
            for cell in re.split(r"[,;\t]", line):
                yield cell.strip().strip('"'), f"{location}:{number}"
        return
    try:
        header = dicom.read_header(path)
    except UnreadableImageError:
        return
    for value in (header.patient, header.study):
        if value is not None:
            yield value, location


def _parts(name: str) -> Iterator[str]:
    """Every run of words in a path: `a_b/c.dcm` gives a, a_b, a_b/c, a_b/c.dcm, b, b/c and so on."""
    words = SEPARATOR.split(name)
    for start in range(0, len(words), 2):
        for end in range(start + 1, len(words) + 1, 2):
            yield "".join(words[start:end])
