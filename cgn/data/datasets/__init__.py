"""Data sets: one module each, found by its name.

A module defines `Options`, a `DatasetOptions` whose field descriptions are the help of the command line, and
`scan(options, size) -> Scan`. A scan reads tables and lists files but decodes no film: each record's `load`
does, so that one bad film costs one pair. A module that knows pairs without any lesion may also define
`healthy(options, size)`, which returns their records for the test of the symmetric prior (`cgn.measure`).

If films have identities, a scan returns nothing raw: `Pseudonyms` name patients, studies, films and pairs,
also in `missing`, and `Scan.key_id` identifies the key.

Public names: `names`, `load`, and for modules `DatasetOptions`, `RawFile`, `Scan`. Modules whose names begin
with an underscore are parts of a data set.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cgn import plugins
from cgn.data.identity.pseudonym import Pseudonyms
from cgn.data.records import PairRecord
from cgn.errors import ConfigError, NotADatasetError


class RawFile(NamedTuple):
    """The identity of a file's content."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, pseudonyms: Pseudonyms | None = None) -> Self:
        """Hashes a file.

        Args:
            path: of the file.
            pseudonyms: name the file `film-...` by its content, since its file name may identify a person. A
                film keeps this name when it is moved, and `cgn whose` finds it again.

        Raises:
            NotADatasetError: the file cannot be read.
        """
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError as error:
            raise NotADatasetError(f"cannot read {path}: {error.strerror}") from None
        return cls(path.name if pseudonyms is None else pseudonyms.of("film", sha256), size, sha256)


@dataclass(frozen=True)
class Scan:
    """The content of a data set before any film is decoded.

    Attributes:
        name: data set and cohort, e.g. `mias-all`.
        records: one for each target, in a fixed order.
        files: all files that pairs are made from: the same files and options give the same pairs.
        missing: what the tables list but the folder lacks, to be printed.
        also_missing: how many more films are missing than `missing` has lines, if a line counts several.
        counts: to be printed.
        notes: remarks on pairs that were kept, to be printed.
        key_id: `Pseudonyms.key_id` of the key of the pseudonyms; "" if nothing identifies a person.
        sandboxed: decode films in processes with limits, since films or decoders are not trusted.
    """

    name: str
    records: tuple[PairRecord, ...]
    files: tuple[RawFile, ...]
    missing: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...] = ()
    key_id: str = ""
    sandboxed: bool = True
    also_missing: int = 0

    @property
    def missing_films(self) -> int:
        """How many films the tables list but the folder lacks."""
        return len(self.missing) + self.also_missing


class DatasetOptions(BaseModel):
    """Options of a data set. Fields of type `Path` are locations, and no part of the content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Options from plain values.

        Raises:
            ConfigError: one line that names the option, what must hold and what came.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError("; ".join(_described(problem, cls) for problem in error.errors())) from None

    def content(self) -> dict[str, Any]:
        """The options that decide what the pairs are, without paths of this machine."""
        return {name: value for name, value in self.model_dump().items() if not isinstance(value, Path)}


def names() -> list[str]:
    """Names of the data sets."""
    return plugins.names(__name__)


def load(name: str) -> ModuleType:
    """The module of a data set. Raises ConfigError, listing the known names, for an unknown one."""
    return plugins.load(__name__, name)


def _described(problem: Any, options: type[DatasetOptions]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name} must be given: {options.model_fields[name].description}"
    if problem["type"] == "extra_forbidden":
        return f"no option {name!r}; the options are {', '.join(sorted(options.model_fields))}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message} but got {problem['input']!r}" if name else message
