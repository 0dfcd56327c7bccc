"""The manifest of a cache: which files there are, how large they are, and what they must hold.

A seal proves that a manifest is whole, not who wrote it. Whatever is read later is checked against it, so
that a cache of somebody else is refused in one line, and takes no more memory than its files justify.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from cgn import files, sealed
from cgn.errors import CacheError, one_line
from cgn.places import Place

FORMAT = 3
"""Format number of the files that are written."""

READABLE = (2, FORMAT)
"""Format numbers that are read; caches of other formats are refused. Format 2 has no healthy films."""

SHARD = 256
"""Rows in a file."""

MANIFEST, SPLITS = "manifest.json", "splits.json"

LARGEST_DOCUMENT = 64 * 2**20
"""Bytes of a manifest, or of the splits; a hundred thousand pairs need a quarter of it."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Recipe(BaseModel):
    """What readers use of a recipe; all of it decides the fingerprint."""

    model_config = ConfigDict(extra="allow")

    size: int = Field(ge=8, le=4096, strict=True)
    background: Literal["keep", "mask"]
    options: dict[str, Any]
    healthy: Hash | None = None  # of all healthy films; None without them


def _checked(recipe: dict[str, Any]) -> dict[str, Any]:
    _Recipe.model_validate(recipe)
    return recipe


def _named(name: Any) -> Any:
    if not files.is_name(name):
        raise ValueError("its name is not that of a data set")
    return name


class Shard(BaseModel):
    """A file of rows."""

    name: str
    rows: int = Field(ge=1, le=SHARD, strict=True)
    bytes: int = Field(ge=1, strict=True)
    sha256: Hash


class PairShard(Shard):
    """A file of pairs."""

    name: str = Field(pattern=r"^pairs-[0-9]{5}\.parquet$")


class HealthyShard(Shard):
    """A file of healthy films."""

    name: str = Field(pattern=r"^healthy-[0-9]{5}\.parquet$")


class DrawnSplits(BaseModel):
    """How the splits were drawn, and the hash of their file."""

    drawn: dict[str, int | list[int]]
    sha256: Hash

    @model_validator(mode="after")
    def _a_plan(self) -> "DrawnSplits":
        if self.drawn.keys() not in ({"folds", "seed"}, {"parts", "seed"}):
            raise ValueError("drawn must be folds or parts, and a seed")
        return self


class Manifest(BaseModel):
    """All facts of a cache but its pairs. Sizes and names hold for the files, too."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, BeforeValidator(_named)]
    fingerprint: str = Field(pattern=r"^[0-9a-f]{16}$")
    recipe: Annotated[dict[str, Any], AfterValidator(_checked)]
    counts: dict[str, int]
    missing: list[str]
    rejected: list[tuple[str, str, str, str, str]]
    notes: list[str]
    pair_ids: list[str] = Field(min_length=1)
    splits: DrawnSplits
    shards: list[PairShard] = Field(min_length=1)
    healthy: list[HealthyShard] = []

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        if self.fingerprint != fingerprint_of(self.recipe):
            raise ValueError("its fingerprint is not that of its recipe")
        if len(set(self.pair_ids)) < len(self.pair_ids):
            raise ValueError("a pair is listed twice")
        if len({shard.name for shard in self.shards}) < len(self.shards):
            raise ValueError("a file of pairs is listed twice")
        if len({shard.name for shard in self.healthy}) < len(self.healthy):
            raise ValueError("a file of healthy films is listed twice")
        if self.healthy and not self.recipe.get("healthy"):
            raise ValueError("its recipe has no healthy films but it lists files of them")
        rows = sum(shard.rows for shard in self.shards)
        if rows != len(self.pair_ids):
            raise ValueError(f"{len(self.pair_ids)} pairs are listed but its files have {rows} rows")
        return self

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return int(self.recipe["size"])


def fingerprint_of(recipe: Mapping[str, Any]) -> str:
    """What names a cache: a hash of what decides its content."""
    return sealed.digest(recipe)[:16]


def read_manifest(place: Place) -> Manifest:
    """The manifest of a cache.

    Raises:
        CacheError: there is no cache, its manifest is damaged or of another format, or the folder has the
            name of another cache.
    """
    content = _read(place, MANIFEST, LARGEST_DOCUMENT)
    if content is None:
        raise CacheError(
            f"no cache at {place.shown}", f"run 'cgn cache DATASET --out {shlex.quote(place.shown)}'"
        )
    try:
        manifest = Manifest.model_validate(sealed.unseal(content, READABLE, "recipe.format"))
    except sealed.FormatError as error:
        raise CacheError(f"the cache at {place.shown} {error}") from None
    except sealed.DamagedError as error:
        raise damaged(place, MANIFEST, str(error)) from None
    except ValidationError as error:
        raise damaged(place, MANIFEST, _described(error)) from None
    named = re.search(r"-[0-9]+-([0-9a-f]{12})$", place.root)  # as caches without --out are named
    if named and not manifest.fingerprint.startswith(named[1]):
        own = f"{manifest.name}-{manifest.size}-{manifest.fingerprint[:12]}"
        raise CacheError(f"the folder {place.shown} holds another cache, {own}", "rename it back")
    return manifest


def read_file(place: Place, name: str, sha256: str | None, *, size: int | None = None) -> bytes:
    """The content of a file that the manifest names.

    Args:
        place: of the cache.
        name: of the file.
        sha256: of its content; not compared if None.
        size: in bytes; if None, any size that a document may have.

    Raises:
        CacheError: it is missing, of another size, or damaged.
    """
    content = _read(place, name, LARGEST_DOCUMENT if size is None else size)
    if content is None:
        raise damaged(place, name, "missing")
    if size is not None and len(content) != size:
        raise damaged(place, name, f"it must have {size} bytes but has {len(content)}")
    if sha256 is not None and sealed.sha256(content) != sha256:
        raise damaged(place, name, "its sha256 differs")
    return content


def _read(place: Place, name: str, largest: int) -> bytes | None:
    """The content of a file, which is not read if it is too large; None if there is no file."""
    try:
        size = place.size(name)
        if size is not None and size > largest:
            raise damaged(place, name, f"it must have at most {largest} bytes but has {size}")
        return None if size is None else place.read(name)
    except OSError as error:
        raise CacheError(f"cannot read {name} of the cache at {place.shown}: {one_line(error)}") from None


def damaged(place: Place, name: str, reason: str) -> CacheError:
    """The error for a damaged file of a cache."""
    return CacheError(
        f"{name} of the cache at {place.shown} is damaged ({reason})",
        "remove the cache and run 'cgn cache' again",
    )


def _described(error: ValidationError) -> str:
    """The first problem of a manifest, without its values."""
    problem = error.errors(include_input=False, include_url=False)[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name} is missing"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return message if message.startswith("its ") else f"{name} {message}".strip()
