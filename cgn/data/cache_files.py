"""The files of a cache: how they are written, opened and verified.

    manifest.json          written last, sealed: the recipe, and the sha256 of every other file
    splits.json            the splits, by pair id
    pairs-00000.parquet    one row for each pair, zstd, page checksums

A folder is written under a temporary name and renamed, so that a killed run leaves nothing under the final
name. Raw films are identified by their sha256; no path of the machine is stored.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cgn import files, sealed
from cgn.data import leaks
from cgn.data.cache_manifest import (
    MANIFEST,
    SHARD,
    SPLITS,
    Manifest,
    Shard,
    damaged,
    read_file,
    read_manifest,
)
from cgn.data.datasets import Scan
from cgn.data.folds import SplitPlan, named, numbered, splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.data.preparation import PairOutcome, PreparedPair
from cgn.data.records import PairRecord, Rejection
from cgn.errors import CacheError, NotADatasetError, one_line
from cgn.places import Place, shown

ROW_GROUP = 32

LARGEST_LIST = 1000
"""Values that a column may have for one pair, on average."""

ENCODINGS = {"PLAIN", "RLE"}
"""How values are written. A dictionary, for example, could repeat a long text without end."""

LARGEST_FACTS = 2**16
"""Bytes of a pair's facts. With its images, this bounds what a shard may unpack to."""

LARGEST_RATIO, SLACK = 200, 64 * 2**20
"""A shard of large images must not unpack to more than so many times its bytes, and this much in any case."""

FEW_LEVELS = 64
"""Grey levels of a prepared film below which a note says so; mini-MIAS: 150 or more, also at 32 pixels."""

PIXELS_PER_LEVEL = 32
"""Smaller images cannot have as many levels, and fewer suffice."""

FACTS = pa.schema(
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
"""Columns of a shard before those with pixels."""

LONGEST_NAME = 1000
"""Letters of a name. Names are stored at equal length in memory."""

NAMES = ("pair_id", "patient_id", "study_id", "view")
CHECKED = (*NAMES, "label", "side", "kinds", "boxes", "target_crop", "reference_crop")
"""Columns whose values must be short names, known values, or finite numbers."""

Scalar = TypeVar("Scalar", bound=np.generic)


def schema(size: int) -> pa.Schema:
    """Columns of a shard: facts of a pair, then its images, row-major, `size x size` bytes each."""
    pixels = pa.binary(size * size)
    return pa.schema(
        [
            *FACTS,
            pa.field("target", pixels, nullable=False),
            pa.field("reference", pixels, nullable=False),
            pa.field("counterfactual", pixels),
        ]
    )


# --------------------------------------------------------------------------------------------- reading


def open_cache(address: str | Path, verify: bool = True) -> Pairs:
    """The pairs of a cache, read-only.

    Args:
        address: its folder, or an address that pyarrow knows (`file://`, `s3://`).
        verify: compare each file with the manifest. Page checksums are verified in any case.

    Raises:
        CacheError: there is no cache, one of its files is missing or damaged, which the message names, or its
            folds overlap.
    """
    place = _place(address)
    manifest = read_manifest(place)
    splits = _splits(place, manifest)
    table = pa.concat_tables(_tables(place, manifest, verify))
    column = {name: table.column(name).to_pylist() for name in FACTS.names}
    size = manifest.size
    counterfactual = table.column("counterfactual")
    pairs = Pairs(
        name=manifest.name,
        fingerprint=manifest.fingerprint,
        pair_id=_frozen(np.array(column["pair_id"], np.str_)),
        patient_id=_frozen(np.array(column["patient_id"], np.str_)),
        study_id=_frozen(np.array(column["study_id"], np.str_)),
        view=_frozen(np.array(column["view"], np.str_)),
        side=_frozen(np.array(column["side"], np.str_)),
        label=_frozen(np.array(column["label"], np.int64)),
        kinds=tuple(tuple(kinds) for kinds in column["kinds"]),
        boxes=tuple(tuple(tuple(box) for box in boxes) for boxes in column["boxes"]),
        reference_has_lesion=_frozen(np.array(column["reference_has_lesion"], np.bool_)),
        target=_images(table.column("target"), size),
        reference=_images(table.column("reference"), size),
        counterfactual=None if counterfactual.null_count else _images(counterfactual, size),
        target_crop=_frozen(np.array(column["target_crop"], np.int64)),
        reference_crop=_frozen(np.array(column["reference_crop"], np.int64)),
        recipe=manifest.recipe,
    )
    _refuse_overlap(place, leaks.overlap(pairs, splits, images=verify))
    return pairs


def open_splits(address: str | Path) -> tuple[Split, ...]:
    """Reading 18. The splits of a cache, as indices into the rows of `open_cache`.

    Raises:
        CacheError: there is no cache, its `splits.json` is missing or damaged, or a pair is in two parts;
            `open_cache` also checks that no patient and no image is.
    """
    place = _place(address)
    return _splits(place, read_manifest(place))


def _splits(place: Place, manifest: Manifest) -> tuple[Split, ...]:
    content = read_file(place, SPLITS, manifest.splits.sha256)
    try:
        stored = json.loads(content)
        splits = numbered(manifest.pair_ids, stored["folds"])
        owner = stored["cache"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged(place, SPLITS, "it must list the pairs of every part of every fold") from None
    if not splits or owner != manifest.fingerprint:
        raise damaged(place, SPLITS, "it must have the folds of this cache")
    _refuse_overlap(place, leaks.repeated(manifest.pair_ids, splits))
    return splits


def _refuse_overlap(place: Place, reason: str) -> None:
    if reason:
        raise CacheError(
            f"the folds of the cache at {place.shown} cannot be used: {reason}",
            "remove the cache and run 'cgn cache' again, which names films that are listed twice",
        )


def _place(address: str | Path) -> Place:
    try:
        return Place(address)
    except OSError as error:
        raise CacheError(f"no cache at {shown(str(address))}: {one_line(error)}") from None


def _tables(place: Place, manifest: Manifest, verify: bool) -> Iterator[pa.Table]:
    """The rows of each shard: those of the pairs that the manifest lists, in this order."""
    start = 0
    for shard in manifest.shards:
        table = _read_shard(place, shard, manifest.size, verify)
        if table.column("pair_id").to_pylist() != manifest.pair_ids[start : start + shard.rows]:
            raise damaged(place, shard.name, "its pairs are not those of the manifest")
        if name := _invalid({name: table.column(name).to_pylist() for name in CHECKED}):
            raise damaged(place, shard.name, f"no pair has such a value of {name}")
        start += shard.rows
        yield table


def _read_shard(place: Place, shard: Shard, size: int, verify: bool) -> pa.Table:
    content = read_file(place, shard.name, shard.sha256 if verify else None, size=shard.bytes)
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        reason = _unexpected(file, shard, size)
        if not reason:
            table = file.read(use_threads=False)  # a thread that still holds `content` at exit aborts (Arrow)
            table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(place, shard.name, one_line(error)) from None
    if reason:
        raise damaged(place, shard.name, reason)
    return table


def _unexpected(file: pq.ParquetFile, shard: Shard, size: int) -> str:
    """What makes a shard another one than the manifest says, before its rows are read; "" if nothing does."""
    footer = file.metadata
    if footer.num_rows != shard.rows:
        return f"it must have {shard.rows} rows but has {footer.num_rows}"
    if not file.schema_arrow.equals(schema(size)):
        return f"it must have the columns of a cache of {size} x {size} pixels"
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(footer.num_columns)]
    if sum(chunk.num_values for chunk in chunks) > LARGEST_LIST * footer.num_columns * shard.rows:
        return f"a pair must have at most {LARGEST_LIST} values in a column"
    if encodings := {encoding for chunk in chunks for encoding in chunk.encodings} - ENCODINGS:
        return f"its values must be written as {' or '.join(sorted(ENCODINGS))}, not as {min(encodings)}"
    largest = min(shard.rows * (3 * size**2 + LARGEST_FACTS), SLACK + LARGEST_RATIO * shard.bytes)
    if sum(chunk.total_uncompressed_size for chunk in chunks) > largest:
        return f"it must not unpack to more than {largest} bytes"
    return ""


def _invalid(column: dict[str, list[Any]]) -> str:
    """The first column with a value that no pair has; "" if there is none."""
    numbers = {"target_crop": column["target_crop"], "reference_crop": column["reference_crop"]}
    numbers["boxes"] = [box for boxes in column["boxes"] for box in boxes]
    for name, rows in numbers.items():
        if not all(row and all(n is not None and math.isfinite(n) for n in row) for row in rows):
            return name
    known: dict[str, set[Any]] = {"label": {0, 1}, "side": {"L", "R"}}
    for name, values in known.items():
        if not set(column[name]) <= values:
            return name
    for name in NAMES:
        if max(map(len, column[name])) > LONGEST_NAME:
            return name
    return "kinds" if any(kind is None for kinds in column["kinds"] for kind in kinds) else ""


def _images(column: pa.ChunkedArray, size: int) -> NDArray[np.uint8]:
    """Pixels of a column without nulls, `(n, size, size)`; a view if the column is one chunk."""
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, size, size)[chunk.offset :][: len(chunk)]
        for chunk in column.chunks
    ]
    return _frozen(chunks[0] if len(chunks) == 1 else np.concatenate(chunks))


def _frozen(array: NDArray[Scalar]) -> NDArray[Scalar]:
    array.setflags(write=False)
    return array


# --------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class CacheContent:
    """All that a cache is written from.

    Attributes:
        scan: of the data set.
        recipe: what decides the content; `fingerprint` is its hash.
        fingerprint: names the content.
        outcomes: of the records of the scan, in their order.
        splits: how splits are drawn.
    """

    scan: Scan
    recipe: dict[str, Any]
    fingerprint: str
    outcomes: Sequence[PairOutcome]
    splits: SplitPlan


def write_files(folder: Path, content: CacheContent) -> None:
    """Writes a cache, complete or not at all.

    Raises:
        NotADatasetError: no pair could be prepared.
        ConfigError: the splits cannot be drawn.
        OSError: the files cannot be written.
    """
    scan = content.scan
    prepared, rejections = _separated(content)
    if not prepared:
        raise NotADatasetError(f"no pair of {scan.name} could be prepared; the first: {rejections[0]}")
    rows = [_row(record, pair) for record, pair in prepared]
    splits_file = _splits_file(rows, content)
    with files.atomic(folder) as draft:
        draft.mkdir()
        shards = list(_write_shards(draft, rows, content.recipe["size"]))
        (draft / SPLITS).write_bytes(splits_file)
        manifest = {
            "name": scan.name,
            "fingerprint": content.fingerprint,
            "recipe": content.recipe,
            "counts": scan.counts
            | {"cached": len(rows), "missing": scan.missing_films, "rejected": len(rejections)},
            "missing": scan.missing,
            "rejected": rejections,
            "notes": [*scan.notes, *_dropped_boxes(prepared), *_few_greys(prepared)],
            "pair_ids": [row["pair_id"] for row in rows],
            "splits": {"drawn": content.splits.facts(), "sha256": sealed.sha256(splits_file)},
            "shards": shards,
        }
        (draft / MANIFEST).write_bytes(sealed.seal(manifest))


def _separated(content: CacheContent) -> tuple[list[tuple[PairRecord, PreparedPair]], list[Rejection]]:
    outcomes = list(zip(content.scan.records, content.outcomes, strict=True))
    prepared = [(record, outcome) for record, outcome in outcomes if isinstance(outcome, PreparedPair)]
    return prepared, [outcome for _, outcome in outcomes if isinstance(outcome, Rejection)]


def _row(record: PairRecord, pair: PreparedPair) -> dict[str, Any]:
    facts = {name: getattr(record, name) for name in FACTS.names if hasattr(record, name)}
    return facts | {
        "boxes": pair.target.boxes,
        "target_crop": pair.target.crop,
        "reference_crop": pair.reference.crop,
        "target": pair.target.pixels.tobytes(),
        "reference": pair.reference.pixels.tobytes(),
        "counterfactual": pair.counterfactual and pair.counterfactual.pixels.tobytes(),
    }


def _splits_file(rows: Sequence[dict[str, Any]], content: CacheContent) -> bytes:
    pair_ids = [row["pair_id"] for row in rows]
    label = np.array([row["label"] for row in rows], np.int64)
    splits = content.splits.draw(label, np.array([row["patient_id"] for row in rows]))
    return sealed.plain(
        {
            "cache": content.fingerprint,
            "drawn": content.splits.facts(),
            "fingerprint": splits_fingerprint(pair_ids, splits),
            "folds": named(pair_ids, splits),
        }
    )


def _write_shards(folder: Path, rows: Sequence[dict[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    """The manifest's entries for the shards, once they are written."""
    for number, start in enumerate(range(0, len(rows), SHARD)):
        table = pa.Table.from_pylist(rows[start : start + SHARD], schema(size))
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
        yield {
            "name": path.name,
            "rows": len(table),
            "bytes": len(content),
            "sha256": sealed.sha256(content),
        }


def _dropped_boxes(prepared: Sequence[tuple[PairRecord, PreparedPair]]) -> Iterator[str]:
    for record, pair in prepared:
        dropped = len(record.boxes) - len(pair.target.boxes)
        if dropped:
            yield f"{record.pair_id}: {dropped} lesion outside of the breast, whose box is dropped"


def _few_greys(prepared: Sequence[tuple[PairRecord, PreparedPair]]) -> Iterator[str]:
    """One note for all films whose values use little of the range that their files state."""
    few = []
    for record, pair in prepared:
        levels = min(np.count_nonzero(np.bincount(image.pixels.ravel())) for image in pair[:2])
        if levels < min(FEW_LEVELS, pair.target.pixels.size // PIXELS_PER_LEVEL):
            few.append((levels, record.pair_id))
    if few:
        levels, pair_id = min(few)
        yield (
            f"{len(few)} of {len(prepared)} pairs have a film with few grey levels "
            f"({pair_id}: {levels}): its values use little of the range that its file states"
        )
