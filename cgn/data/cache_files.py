"""The files of a cache: how they are written, opened and verified.

    manifest.json          written last, sealed: the recipe, and the sha256 of every other file
    splits.json            the splits, by pair id
    pairs-00000.parquet    one row for each pair, zstd, page checksums
    healthy-00000.parquet  one row for each healthy film, likewise

A folder is written under a temporary name and renamed, so that a killed run leaves nothing under the final
name. Raw films are identified by their sha256; no path of the machine is stored.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cgn import files, sealed
from cgn.data import leaks
from cgn.data.breast import PreparedImage
from cgn.data.cache_manifest import (
    MANIFEST,
    SPLITS,
    Manifest,
    damaged,
    read_file,
    read_manifest,
)
from cgn.data.cache_shards import HEALTHY, PAIRS, read_shard, write_shards
from cgn.data.datasets import FilmRecord, Scan
from cgn.data.folds import SplitPlan, named, numbered, splits_fingerprint
from cgn.data.pairs import Films, Pairs, Split
from cgn.data.preparation import FilmOutcome, PairOutcome, PreparedPair
from cgn.data.records import PairRecord, Rejection
from cgn.errors import CacheError, NotADatasetError, one_line
from cgn.places import Place, shown

FEW_LEVELS = 64
"""Grey levels of a prepared film below which a note says so; mini-MIAS: 150 or more, also at 32 pixels."""

PIXELS_PER_LEVEL = 32
"""Smaller images cannot have as many levels, and fewer suffice."""

Scalar = TypeVar("Scalar", bound=np.generic)


# --------------------------------------------------------------------------------------------- reading


def open_cache(address: str | Path, verify: bool = True) -> Pairs:
    """The pairs of a cache, read-only.

    Args:
        address: its folder, or an address that pyarrow knows (`file://`, `s3://`).
        verify: compare each file with the manifest. Page checksums are verified in any case.

    Raises:
        CacheError: there is no cache, one of its files is missing or damaged, which the message names, its
            folds overlap, or a healthy film is not healthy or of another woman.
    """
    place = _place(address)
    manifest = read_manifest(place)
    splits = _splits(place, manifest)
    table = pa.concat_tables(_tables(place, manifest, verify))
    column = {name: table.column(name).to_pylist() for name in PAIRS.facts.names}
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
        healthy=_healthy(place, manifest, verify),
    )
    _refuse_overlap(place, leaks.overlap(pairs, splits, images=verify))
    if verify and (reason := leaks.not_healthy(pairs)):
        raise CacheError(
            f"the healthy films of the cache at {place.shown} cannot be used: {reason}",
            "remove the cache and run 'cgn cache' again, which leaves such films out",
        )
    return pairs


def _healthy(place: Place, manifest: Manifest, verify: bool) -> Films | None:
    """The healthy films of a cache; None if it has none."""
    if not manifest.healthy:
        return None
    shards = manifest.healthy
    table = pa.concat_tables(read_shard(place, shard, HEALTHY, manifest.size, verify) for shard in shards)
    film_id, patient_id, view, side = (
        _frozen(np.array(table.column(name).to_pylist(), np.str_))
        for name in ("film_id", "patient_id", "view", "side")
    )
    if len(np.unique(film_id)) < len(film_id):
        raise damaged(place, shards[0].name, "a healthy film is listed twice")
    no_finding, no_cohort_finding = (
        _frozen(np.array(table.column(name).to_pylist(), np.bool_))
        for name in ("no_finding", "no_cohort_finding")
    )
    image = _images(table.column("image"), manifest.size)
    return Films(film_id, patient_id, view, side, no_finding, no_cohort_finding, image)


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
        table = read_shard(place, shard, PAIRS, manifest.size, verify)
        if table.column("pair_id").to_pylist() != manifest.pair_ids[start : start + shard.rows]:
            raise damaged(place, shard.name, "its pairs are not those of the manifest")
        start += shard.rows
        yield table


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
        films: healthy films, and what became of them.
    """

    scan: Scan
    recipe: dict[str, Any]
    fingerprint: str
    outcomes: Sequence[PairOutcome]
    splits: SplitPlan
    films: Sequence[tuple[FilmRecord, FilmOutcome]] = ()

    def rejections(self) -> list[Rejection]:
        """What could not be prepared: pairs, then healthy films."""
        outcomes = (*self.outcomes, *(outcome for _, outcome in self.films))
        return [outcome for outcome in outcomes if isinstance(outcome, Rejection)]


def write_files(folder: Path, content: CacheContent) -> None:
    """Writes a cache, complete or not at all.

    Raises:
        NotADatasetError: no pair could be prepared.
        ConfigError: the splits cannot be drawn.
        OSError: the files cannot be written.
    """
    scan = content.scan
    size, rejections = content.recipe["size"], content.rejections()
    prepared = [
        (record, outcome)
        for record, outcome in zip(scan.records, content.outcomes, strict=True)
        if isinstance(outcome, PreparedPair)
    ]
    healthy = [(film, image) for film, image in content.films if isinstance(image, PreparedImage)]
    if not prepared:
        raise NotADatasetError(f"no pair of {scan.name} could be prepared; the first: {rejections[0]}")
    rows = [_row(record, pair) for record, pair in prepared]
    splits_file = _splits_file(rows, content)
    with files.atomic(folder) as draft:
        draft.mkdir()
        shards = list(write_shards(draft, PAIRS, rows, size))
        healthy_shards = list(write_shards(draft, HEALTHY, _film_rows(healthy), size))
        (draft / SPLITS).write_bytes(splits_file)
        manifest = {
            "name": scan.name,
            "fingerprint": content.fingerprint,
            "recipe": content.recipe,
            "counts": scan.counts
            | {
                "cached": len(rows),
                "missing": scan.missing_films,
                "rejected": len(content.outcomes) - len(rows),
            }
            | ({"healthy films": len(healthy)} if content.films else {}),
            "missing": scan.missing,
            "rejected": rejections,
            "notes": [*scan.notes, *_dropped_boxes(prepared), *_few_greys(prepared)],
            "pair_ids": [row["pair_id"] for row in rows],
            "splits": {"drawn": content.splits.facts(), "sha256": sealed.sha256(splits_file)},
            "shards": shards,
            "healthy": healthy_shards,
        }
        (draft / MANIFEST).write_bytes(sealed.seal(manifest))


def _row(record: PairRecord, pair: PreparedPair) -> dict[str, Any]:
    facts = {name: getattr(record, name) for name in PAIRS.facts.names if hasattr(record, name)}
    return facts | {
        "boxes": pair.target.boxes,
        "target_crop": pair.target.crop,
        "reference_crop": pair.reference.crop,
        "target": pair.target.pixels.tobytes(),
        "reference": pair.reference.pixels.tobytes(),
        "counterfactual": pair.counterfactual and pair.counterfactual.pixels.tobytes(),
    }


def _film_rows(films: Iterable[tuple[FilmRecord, PreparedImage]]) -> Iterator[dict[str, Any]]:
    for film, image in films:
        facts = {name: getattr(film, name) for name in HEALTHY.facts.names if hasattr(film, name)}
        yield facts | {"crop": image.crop, "image": image.pixels.tobytes()}


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
