"""Prepared pairs in a folder: written once, named by its content, checked when opened.

    manifest.json          written last: what it was made from and the sha256 of every other file
    splits.json            the folds, by pair id
    pairs-00000.parquet    a row a pair, zstd, page checksums

The folder is written beside its place under a temporary name and renamed, so a killed run leaves
nothing under the final one. Raw films are named by their sha256 and no path of the machine that
made it is written down. Beside it, `NAME.quarantine.csv` lists the pairs that could not be prepared.
"""

import csv
import hashlib
import inspect
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from cgn import files
from cgn.data import breast, datasets
from cgn.data.breast import Background
from cgn.data.datasets import DatasetOptions, PairRecord, Scan
from cgn.data.folds import make_split, make_splits, named, numbered, splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.data.workers import Outcome, PreparedPair, Rejection, prepare_pairs
from cgn.errors import CacheError, ConfigError, NotADatasetError
from cgn.provenance import essence

FORMAT = 2
"""Of the files below; a reader refuses another one."""

SHARD = 256
"""Pairs a file: as many as a killed or damaged one costs."""

ROW_GROUP = 32

Scalar = TypeVar("Scalar", bound=np.generic)
Progress = Callable[[int, int], None]
"""Called with the number of pairs done and of all pairs."""


@dataclass(frozen=True)
class CacheReport:
    """What `write_cache` did.

    Attributes:
        path: the cache's folder.
        fingerprint: of the content; the last part of a default folder's name begins it.
        fresh: False where the cache was there already and nothing was done.
        counts: for people to read: of the dataset, and how many pairs were cached.
        missing: what the dataset's tables name but its folder has not.
        rejected: pairs that could not be prepared, each with the film and the reason.
        quarantine: the file beside the cache that lists them; None where there are none.
        notes: pairs that were kept with a remark.
        seconds: of this call.
        images_per_second: films decoded and prepared; 0 where nothing was done.
    """

    path: Path
    fingerprint: str
    fresh: bool
    counts: dict[str, int]
    missing: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    quarantine: Path | None
    notes: tuple[str, ...]
    seconds: float
    images_per_second: float


Drawn = dict[str, Any]
"""How `splits.json` was drawn, as it is recorded: its seed, and the number of folds or the three parts."""


def write_cache(
    dataset_name: str,
    options: DatasetOptions,
    *,
    size: int = 224,
    background: Background = "keep",
    out: Path | None = None,
    store: Path = Path("runs"),
    folds: int = 5,
    parts: tuple[int, int, int] | None = None,
    split_seed: int = 0,
    progress: Progress | None = None,
) -> CacheReport:
    """Sec. IV-A. Prepares every pair of a dataset and draws the folds, once.

    Where the same content stands there already, no film is decoded.

    Args:
        dataset_name: module of `cgn.data.datasets`.
        options: of that module's `Options`.
        size: side of the cached images in pixels.
        background: see `cgn.data.breast.prepare`.
        out: the cache's folder; None names one in `store/cache` by its content.
        store: where caches without an `out` go.
        folds, split_seed: of `splits.json`.
        parts: draw one division in this proportion (train, validate, test) instead of folds.
        progress: told of every pair.

    Raises:
        ConfigError: an unknown dataset, too many folds, a size that is none.
        NotADatasetError: the folder is none, or no pair of it could be prepared.
        CacheError: `out` holds something else, or the cache has other folds.
    """
    started = time.monotonic()
    if not 8 <= size <= 4096:
        raise ConfigError(f"size must lie in [8, 4096] pixels but got {size}")
    if background not in ("keep", "mask"):
        raise ConfigError(f"background must be 'keep' or 'mask' but got {background!r}")
    if out is not None and re.match(r"[a-z][a-z0-9+.-]+:/", str(out)):
        raise ConfigError(f"a cache is written to a local folder but got {out}: write it, then copy it there")
    module = datasets.load(dataset_name)
    scan: Scan = module.scan(options, size)
    if not scan.records:
        raise NotADatasetError(
            f"{scan.name} has no target whose films are both there ({len(scan.missing)} are missing)"
        )
    recipe = {
        "format": FORMAT,
        "dataset": dataset_name,
        "options": options.content(),
        "size": size,
        "background": background,
        "code": {m.__name__: _sha256(essence(inspect.getsource(m)).encode())[:16] for m in _code(module)},
        "raw": _digest(scan.files),
        "key_id": scan.key_id,
    }
    fingerprint = _digest(recipe)[:16]
    place = out if out is not None else Path(store) / "cache" / f"{scan.name}-{size}-{fingerprint[:12]}"
    place = place.absolute()

    drawn: Drawn = {"folds": folds, "seed": split_seed}
    if parts is not None:
        drawn = {"parts": list(parts), "seed": split_seed}

    def there() -> bool:
        return _same_content(place, fingerprint, drawn)

    fresh, preparing = False, 0.0
    if not there():
        with _alone_at(place):
            fresh = not there()  # another process may have written it meanwhile
            if fresh:
                begun = time.monotonic()
                outcomes = _prepare_all(scan, size, background, progress)
                preparing = time.monotonic() - begun
                _quarantine(place, outcomes)
                _write(place, scan, recipe, fingerprint, outcomes, drawn)
    manifest = _manifest(_Files(str(place)))
    return CacheReport(
        path=place,
        fingerprint=fingerprint,
        fresh=fresh,
        counts=manifest["counts"],
        missing=tuple(manifest["missing"]),
        rejected=tuple(Rejection(*row) for row in manifest["rejected"]),
        quarantine=_quarantine_of(place) if manifest["rejected"] else None,
        notes=tuple(manifest["notes"]),
        seconds=time.monotonic() - started,
        images_per_second=2 * len(scan.records) / preparing if fresh else 0.0,
    )


def open_cache(where: str | Path, verify: bool = True) -> Pairs:
    """The pairs of a cache, read-only.

    Args:
        where: its folder, or its address where pyarrow knows the file system (`file://`, `s3://`).
        verify: compare each file with the manifest; page checksums are looked at in any case.

    Raises:
        CacheError: there is no cache, or one of its files is missing or damaged: the message names it.
    """
    files = _Files(str(where))
    manifest = _manifest(files)
    table = pa.concat_tables([_shard(files, shard, verify) for shard in manifest["shards"]])
    column = {name: table.column(name).to_pylist() for name in SCHEMA_FACTS.names}
    side = manifest["recipe"]["size"]
    counterfactual = table.column("counterfactual")
    return Pairs(
        name=manifest["name"],
        fingerprint=manifest["fingerprint"],
        pair_id=_frozen(np.array(column["pair_id"], np.str_)),
        patient_id=_frozen(np.array(column["patient_id"], np.str_)),
        study_id=_frozen(np.array(column["study_id"], np.str_)),
        view=_frozen(np.array(column["view"], np.str_)),
        side=_frozen(np.array(column["side"], np.str_)),
        label=_frozen(np.array(column["label"], np.int64)),
        kinds=tuple(tuple(kinds) for kinds in column["kinds"]),
        boxes=tuple(tuple(tuple(box) for box in boxes) for boxes in column["boxes"]),
        reference_has_lesion=_frozen(np.array(column["reference_has_lesion"], np.bool_)),
        target=_images(table.column("target"), side),
        reference=_images(table.column("reference"), side),
        counterfactual=None if counterfactual.null_count else _images(counterfactual, side),
        target_crop=_frozen(np.array(column["target_crop"], np.int64)),
        reference_crop=_frozen(np.array(column["reference_crop"], np.int64)),
        recipe=manifest["recipe"],
    )


def open_splits(where: str | Path) -> tuple[Split, ...]:
    """Reading 18. The folds of a cache, as indices into the rows of `open_cache`.

    Raises:
        CacheError: there is no cache, or its `splits.json` is missing or damaged.
    """
    files = _Files(str(where))
    manifest = _manifest(files)
    content = files.read("splits.json")
    if content is None or _sha256(content) != manifest["splits"]["sha256"]:
        raise _damaged(files, "splits.json", "missing" if content is None else "its sha256 differs")
    return numbered(manifest["pair_ids"], json.loads(content)["folds"])


# ---------------------------------------------------------------------------------------------- layout

SCHEMA_FACTS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("patient_id", pa.string(), nullable=False),
        pa.field("study_id", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("kinds", pa.list_(pa.string()), nullable=False),
        pa.field("boxes", pa.list_(pa.list_(pa.float64(), 4)), nullable=False),
        pa.field("reference_has_lesion", pa.bool_(), nullable=False),
        pa.field("target_crop", pa.list_(pa.int64(), 4), nullable=False),
        pa.field("reference_crop", pa.list_(pa.int64(), 4), nullable=False),
    ]
)


def schema(size: int) -> pa.Schema:
    """Columns of a shard: what is known of a pair, then its pixels, row-major, `size x size` bytes."""
    pixels = pa.binary(size * size)
    return pa.schema(
        [
            *SCHEMA_FACTS,
            pa.field("target", pixels, nullable=False),
            pa.field("reference", pixels, nullable=False),
            pa.field("counterfactual", pixels),
        ]
    )


def _prepare_all(scan: Scan, size: int, background: Background, progress: Progress | None) -> list[Outcome]:
    """What became of each record, in their order."""
    outcomes: dict[int, Outcome] = {}
    for number, outcome in prepare_pairs(scan.records, size, background, contained=scan.contained):
        outcomes[number] = outcome
        if progress is not None:
            progress(len(outcomes), len(scan.records))
    return [outcomes[number] for number in range(len(scan.records))]


def _row(record: PairRecord, pair: PreparedPair) -> dict[str, Any]:
    facts = {name: getattr(record, name) for name in SCHEMA_FACTS.names if hasattr(record, name)}
    return facts | {
        "boxes": pair.target.boxes,
        "target_crop": pair.target.crop,
        "reference_crop": pair.reference.crop,
        "target": pair.target.pixels.tobytes(),
        "reference": pair.reference.pixels.tobytes(),
        "counterfactual": pair.counterfactual and pair.counterfactual.pixels.tobytes(),
    }


def _code(module: ModuleType) -> list[ModuleType]:
    """What decides the pixels: the breast region, the dataset, and what of `cgn.data` it is made with."""
    taken = (
        value if inspect.ismodule(value) else inspect.getmodule(value) for value in vars(module).values()
    )
    ours = {m.__name__: m for m in (breast, module, *taken) if m and m.__name__.startswith("cgn.data.")}
    return [ours[name] for name in sorted(ours)]


# --------------------------------------------------------------------------------------------- writing


def _write(
    place: Path,
    scan: Scan,
    recipe: dict[str, Any],
    fingerprint: str,
    outcomes: list[Outcome],
    drawn: Drawn,
) -> None:
    rejected = [outcome for outcome in outcomes if isinstance(outcome, Rejection)]
    prepared = [(r, o) for r, o in zip(scan.records, outcomes, strict=True) if isinstance(o, PreparedPair)]
    if not prepared:
        raise NotADatasetError(f"no pair of {scan.name} could be prepared; the first: {rejected[0]}")
    rows = [_row(record, pair) for record, pair in prepared]
    label = np.array([row["label"] for row in rows], np.int64)
    patient_id = np.array([row["patient_id"] for row in rows])
    pair_ids = [row["pair_id"] for row in rows]
    splits = (
        make_split(label, patient_id, tuple(drawn["parts"]), drawn["seed"])
        if "parts" in drawn
        else make_splits(label, patient_id, drawn["folds"], drawn["seed"])
    )
    with files.atomic(place) as folder:
        folder.mkdir()
        shards = []
        for number, start in enumerate(range(0, len(rows), SHARD)):
            table = pa.Table.from_pylist(rows[start : start + SHARD], schema(recipe["size"]))
            path = folder / f"pairs-{number:05d}.parquet"
            pq.write_table(
                table,
                path,
                row_group_size=ROW_GROUP,
                compression="zstd",
                compression_level=3,
                use_dictionary=False,
                write_page_checksum=True,
            )
            content = path.read_bytes()
            shards.append(
                {"name": path.name, "rows": len(table), "bytes": len(content), "sha256": _sha256(content)}
            )
        split_file = _json(
            {
                "cache": fingerprint,
                "drawn": drawn,
                "fingerprint": splits_fingerprint(pair_ids, splits),
                "folds": named(pair_ids, splits),
            }
        )
        (folder / "splits.json").write_bytes(split_file)
        manifest = {
            "name": scan.name,
            "fingerprint": fingerprint,
            "recipe": recipe,
            "counts": scan.counts
            | {"cached": len(rows), "missing": len(scan.missing), "rejected": len(rejected)},
            "missing": scan.missing,
            "rejected": rejected,
            "notes": [*scan.notes, *_outside(prepared)],
            "pair_ids": pair_ids,
            "splits": {"drawn": drawn, "sha256": _sha256(split_file)},
            "shards": shards,
        }
        (folder / "manifest.json").write_bytes(_json(manifest | {"sha256": _digest(manifest)}))


def _outside(prepared: list[tuple[PairRecord, PreparedPair]]) -> Iterator[str]:
    for record, pair in prepared:
        outside = len(record.boxes) - len(pair.target.boxes)
        if outside:
            yield f"{record.pair_id}: {outside} lesion outside of the breast, its box left out"


def _quarantine_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.quarantine.csv")


def _quarantine(place: Path, outcomes: list[Outcome]) -> None:
    """The list of rejected pairs beside the cache, for its owner's eyes; none where none was rejected."""
    path = _quarantine_of(place)
    rejected = [outcome for outcome in outcomes if isinstance(outcome, Rejection)]
    if not rejected:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Rejection._fields, *rejected])
    files.write(path, text.getvalue(), private=True)


@contextmanager
def _alone_at(place: Path) -> Iterator[None]:
    """No other process writes this place; what a killed one left of it is removed first."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.parent / f".{place.name}.lock"):
            files.remove_drafts(place)
            yield
    except OSError as error:
        raise CacheError(f"cannot write {place}: {_line(error)}") from error


def _same_content(place: Path, fingerprint: str, drawn: Drawn) -> bool:
    """Whether the cache stands there already; False where nothing does.

    Raises:
        CacheError: something else stands there, it is damaged, or its folds are others.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    files = _Files(str(place))
    if files.read("manifest.json") is None:
        raise CacheError(f"{place} holds something that is no cache: choose another folder")
    manifest = _manifest(files)
    if manifest["fingerprint"] != fingerprint:
        raise CacheError(
            f"{place} holds another cache ({manifest['name']}, {manifest['fingerprint']}; "
            f"asked for {fingerprint}): choose another folder"
        )
    for name, sha256 in [(s["name"], s["sha256"]) for s in manifest["shards"]] + [
        ("splits.json", manifest["splits"]["sha256"])
    ]:
        content = files.read(name)
        if content is None or _sha256(content) != sha256:
            raise _damaged(files, name, "missing" if content is None else "its sha256 differs")
    if manifest["splits"]["drawn"] != drawn:
        raise CacheError(
            f"{place} has {_said(manifest['splits']['drawn'])} and its splits are written once, "
            f"but {_said(drawn)} were asked for: choose another folder"
        )
    return True


def _said(drawn: Drawn) -> str:
    ways = f"parts {':'.join(map(str, drawn['parts']))}" if "parts" in drawn else f"{drawn['folds']} folds"
    return f"{ways} of seed {drawn['seed']}"


# --------------------------------------------------------------------------------------------- reading


class _Files:
    """The files of a cache, wherever it lies."""

    def __init__(self, where: str) -> None:
        self.where = where
        try:
            if "://" in where:
                self._system, self._folder = pa.fs.FileSystem.from_uri(where)
            else:
                self._system, self._folder = pa.fs.LocalFileSystem(), str(Path(where).absolute())
        except (pa.ArrowException, OSError) as error:
            raise CacheError(f"no cache at {where}: {_line(error)}") from None

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it is not there."""
        try:
            with self._system.open_input_file(f"{self._folder}/{name}") as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CacheError(f"cannot read {name} of the cache at {self.where}: {_line(error)}") from None


def _manifest(files: _Files) -> dict[str, Any]:
    content = files.read("manifest.json")
    if content is None:
        raise CacheError(f"no cache at {files.where}: run 'cgn cache DATASET --out {files.where}'")
    try:
        manifest: dict[str, Any] = json.loads(content)
        sealed, found = manifest.pop("sha256"), manifest["recipe"]["format"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(files, "manifest.json", "it cannot be read") from None
    if found != FORMAT:
        raise CacheError(f"the cache at {files.where} has format {found} but format {FORMAT} is read")
    if _digest(manifest) != sealed:
        raise _damaged(files, "manifest.json", "its sha256 differs")
    return manifest


def _shard(files: _Files, entry: dict[str, Any], verify: bool) -> pa.Table:
    name = entry["name"]
    content = files.read(name)
    if content is None:
        raise _damaged(files, name, "missing")
    if verify and _sha256(content) != entry["sha256"]:
        raise _damaged(files, name, "its sha256 differs")
    try:
        return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(files, name, _line(error)) from None


def _images(column: pa.ChunkedArray, size: int) -> NDArray[np.uint8]:
    """Pixels of a column without nulls, `(n, size, size)`; a view where it is one chunk."""
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, size, size)[chunk.offset :][: len(chunk)]
        for chunk in column.chunks
    ]
    return _frozen(chunks[0] if len(chunks) == 1 else np.concatenate(chunks))


def _damaged(files: _Files, name: str, why: str) -> CacheError:
    return CacheError(
        f"{name} of the cache at {files.where} is damaged ({why}): remove it and run 'cgn cache' again"
    )


# --------------------------------------------------------------------------------------------- helpers


def _frozen(array: NDArray[Scalar]) -> NDArray[Scalar]:
    array.setflags(write=False)
    return array


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(value: Any) -> str:
    return _sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
