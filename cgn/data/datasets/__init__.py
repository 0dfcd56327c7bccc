"""Data sets: one module each, found by its name.

A module defines `Options`, a `DatasetOptions` whose field descriptions are the help of the command line, and
`scan(options, size) -> Scan`. A scan reads tables and lists files but decodes no film: each record's `load`
does, so that one bad film costs one pair. A module that knows pairs without any lesion may also define
`healthy(options, size)`, which returns their records for the test of the symmetric prior (`cgn.measure`). One
that knows which films have no finding may define `healthy_films(options, size)`, which returns a `FilmRecord`
for each. Caches hold them for methods that learn what a breast without a lesion looks like.

If films have identities, a scan returns nothing raw: `Pseudonyms` name patients, studies, films and pairs,
also in `missing`, and `Scan.key_id` identifies the key.

Public names: `names`, `load`, and for modules `DatasetOptions`, `FilmRecord`, `RawFile`, `Scan`. Modules with
names that begin with an underscore are parts of a data set.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cgn import plugins
from cgn.data.breast import Laterality
from cgn.data.identity.pseudonym import Pseudonyms
from cgn.data.records import PairRecord, RawImage, Rejection
from cgn.errors import ConfigError, NotADatasetError, Reason


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
class FilmRecord:
    """Reading 40. One healthy film, its facts, and how to load it. It is never the target of a pair.

    Attributes:
        film_id, patient_id: pseudonyms; `film_id` is that of the film's content where films have identities.
        view, side: e.g. MLO; L or R.
        no_finding: the whole film was read as normal, not merely unmarked.
        no_cohort_finding: it has no finding of the cohort's kinds.
        load: returns the film, raises UnreadableImageError; picklable, as that of a pair.
        study_id: pseudonym of the visit; "" if it is not known.
        film: its file; None for a film without one.
        reference_of: a pair whose reference it is, if there is one. It then has the reference's image.
    """

    film_id: str
    patient_id: str
    view: str
    side: Laterality
    no_finding: bool
    no_cohort_finding: bool
    load: Callable[[], RawImage]
    study_id: str = ""
    film: RawFile | None = None
    reference_of: str = ""

    @property
    def pair_id(self) -> str:
        """The name in a rejection."""
        return self.film_id

    @property
    def films(self) -> tuple[str, str]:
        """The file, as a rejection names those of a pair."""
        return ("" if self.film is None else self.film.name), ""

    def rejected(self, reason: Reason | str, message: str) -> Rejection:
        """The rejection of this film."""
        return Rejection(self.film_id, "healthy", self.films[0], str(reason), message)


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
    """Options of a data set. Fields of type `Path` are locations, and no part of the content.

    Attributes:
        healthy: whether caches hold the healthy films; a recipe names these films themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    healthy: bool = Field(
        True,
        exclude=True,
        description="cache the healthy films too, which some compared methods learn from; a cache without "
        "them is another cache",
    )

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
