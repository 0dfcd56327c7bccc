"""Where pairs come from: one module a dataset, found by its name.

Each holds `Options` (a `DatasetOptions`, whose field descriptions are the command line's help) and
`scan(options) -> Scan`. A scan reads tables and lists files but decodes no image: that is left to each
record's `load`, so that one bad film costs one pair. A module that knows pairs without any lesion may
also hold `healthy(options, size)`, their records, for the test of the prior (`cgn.measure`).

Where films have identities, nothing raw leaves a scan: `Pseudonyms` name patients, studies, films and
pairs, also in `missing`, and `Scan.key_id` says under which key.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cgn import plugins
from cgn.data.breast import Laterality, Pixels, Wall
from cgn.data.pairs import Box
from cgn.data.pseudonym import Pseudonyms
from cgn.errors import ConfigError, NotADatasetError, UnreadableImageError


class Image(NamedTuple):
    """One film: stored values `(rows, columns)` of `bits` bits, and where its chest wall stands."""

    pixels: Pixels
    bits: int
    chest_wall: Wall


class Films(NamedTuple):
    """What a pair is made of; only phantoms know the target without its lesion."""

    target: Image
    reference: Image
    counterfactual: Image | None = None


@contextmanager
def blaming(role: Literal["target", "reference"]) -> Iterator[None]:
    """An image that cannot be used within is that film of its pair, as the list of rejected pairs tells."""
    try:
        yield
    except UnreadableImageError as error:
        error.role = role
        raise


def load_pair(target: Callable[[], Image], reference: Callable[[], Image]) -> Films:
    """Both films of a pair, for `PairRecord.load`: `partial(load_pair, partial(...), partial(...))`."""
    with blaming("target"):
        first = target()
    with blaming("reference"):
        return Films(first, reference())


@dataclass(frozen=True)
class PairRecord:
    """One target, what is known of it, and how to get its films.

    Attributes:
        pair_id, patient_id: pseudonyms; `pair_id` is unique, one patient may have several pairs.
        view, side: e.g. MLO; L or R of the target.
        label: 0 benign, 1 malignant.
        kinds: kinds of the findings.
        boxes: lesions in pixels of the target's film; none where no place is given.
        reference_has_lesion: the other side is abnormal too.
        load: the films; can be pickled, for it may run in a process of its own. Raises UnreadableImageError.
        study_id: pseudonym of the visit; "" where it is not known.
        films: names of target and reference, as `Scan.files` has them; "" where there is no file.
    """

    pair_id: str
    patient_id: str
    view: str
    side: Laterality
    label: int
    kinds: tuple[str, ...]
    boxes: tuple[Box, ...]
    reference_has_lesion: bool
    load: Callable[[], Films]
    study_id: str = ""
    films: tuple[str, str] = ("", "")


class RawFile(NamedTuple):
    """What names a file's content."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, pseudonyms: Pseudonyms | None = None) -> Self:
        """Reads the whole file.

        Args:
            path: the file.
            pseudonyms: name it `film-...` by its content instead of by its file name, which may identify;
                a film keeps this name when it is moved, and `cgn whose` finds it again.

        Raises:
            NotADatasetError: the file may not be read.
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
    """What a dataset holds, before any image is decoded.

    Attributes:
        name: dataset and cohort, e.g. `mias-all`.
        records: one a target, in a fixed order.
        files: all that the pairs are made from: equal files and options give equal pairs.
        missing: what the tables name but the folder has not, for people to read.
        counts: for people to read.
        notes: what was kept with a remark, for people to read.
        key_id: `Pseudonyms.key_id` of the key that named patients and films; "" where nothing identifies.
        contained: decode each film in a process with limits: film, or decoder, is not trusted.
    """

    name: str
    records: tuple[PairRecord, ...]
    files: tuple[RawFile, ...]
    missing: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...] = ()
    key_id: str = ""
    contained: bool = True


class DatasetOptions(BaseModel):
    """What a dataset is asked for. Fields of type `Path` say where and are no part of the content."""

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
            raise ConfigError("; ".join(_plain(e, cls) for e in error.errors())) from None

    def content(self) -> dict[str, Any]:
        """The options that decide what the pairs are: no path of this machine among them."""
        return {k: v for k, v in self.model_dump().items() if not isinstance(v, Path)}


def names() -> list[str]:
    """The datasets there are."""
    return plugins.names(__name__)


def load(name: str) -> ModuleType:
    """The module of a dataset. Raises ConfigError, listing those there are, for an unknown one."""
    return plugins.load(__name__, name)


def _plain(error: Any, options: type[DatasetOptions]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{name} must be given: {options.model_fields[name].description}"
    if error["type"] == "extra_forbidden":
        return f"no option {name!r}; the options are {', '.join(sorted(options.model_fields))}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message} but got {error['input']!r}" if name else message
