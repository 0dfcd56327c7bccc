"""Where pairs come from: one module a dataset, found by its name.

Each holds `Options` (a `DatasetOptions`, whose field descriptions are the command line's help) and
`scan(options) -> Scan`. A scan reads tables and lists files but decodes no image: that is left to each
record's `load`, so that one bad film costs one pair.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cgn import plugins
from cgn.data.breast import Laterality, Pixels, Wall
from cgn.data.pairs import Box
from cgn.errors import ConfigError, NotADatasetError


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
        load: the films. Raises UnreadableImageError naming the film.
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


class RawFile(NamedTuple):
    """What names a file's content."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Reads the whole file. Raises NotADatasetError where it may not be read."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise NotADatasetError(f"cannot read {path}: {error.strerror}") from None
        return cls(path.name, len(content), hashlib.sha256(content).hexdigest())


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
    """

    name: str
    records: tuple[PairRecord, ...]
    files: tuple[RawFile, ...]
    missing: tuple[str, ...]
    counts: dict[str, int]
    notes: tuple[str, ...] = ()


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
    return f"{name}: {error['msg'].removeprefix('Value error, ')} but got {error['input']!r}"
