"""The files of rows in a cache, Parquet: pairs or healthy films, verified before and after they are read."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cgn import sealed
from cgn.data.cache_manifest import SHARD, Shard, damaged, read_file
from cgn.errors import one_line
from cgn.places import Place

ROW_GROUP = 32

LARGEST_LIST = 1000
"""Values that a column may have for one row, on average."""

ENCODINGS = {"PLAIN", "RLE"}
"""How values are written. A dictionary, for example, could repeat a long text without end."""

LARGEST_FACTS = 2**16
"""Bytes of a row's facts. With its images, this bounds what a shard may unpack to."""

LARGEST_RATIO, SLACK = 200, 64 * 2**20
"""A shard of large images must not unpack to more than so many times its bytes, and this much in any case."""

LONGEST_NAME = 1000
"""Letters of a name. Names are stored at equal length in memory."""


@dataclass(frozen=True)
class Rows:
    """What a file has one row for.

    Attributes:
        kind: begins the names of the files.
        noun: names a row in messages.
        facts: columns before those with pixels.
        images: columns with pixels, row-major, `size x size` bytes each; True if a row may lack the image.
    """

    kind: str
    noun: str
    facts: pa.Schema
    images: Mapping[str, bool]

    def schema(self, size: int) -> pa.Schema:
        """The columns of a file."""
        pixels = pa.binary(size * size)
        images = [pa.field(name, pixels, nullable=optional) for name, optional in self.images.items()]
        return pa.schema([*self.facts, *images])


def _columns(**types: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in types.items()])


PAIRS = Rows(
    "pairs",
    "pair",
    _columns(
        pair_id=pa.string(),
        patient_id=pa.string(),
        study_id=pa.string(),
        view=pa.string(),
        side=pa.string(),
        label=pa.int8(),
        kinds=pa.list_(pa.string()),
        boxes=pa.list_(pa.list_(pa.float64(), 4)),
        reference_has_lesion=pa.bool_(),
        target_crop=pa.list_(pa.int64(), 4),
        reference_crop=pa.list_(pa.int64(), 4),
    ),
    MappingProxyType({"target": False, "reference": False, "counterfactual": True}),
)
HEALTHY = Rows(
    "healthy",
    "healthy film",
    _columns(
        film_id=pa.string(),
        patient_id=pa.string(),
        study_id=pa.string(),
        view=pa.string(),
        side=pa.string(),
        no_finding=pa.bool_(),
        no_cohort_finding=pa.bool_(),
        crop=pa.list_(pa.int64(), 4),
    ),
    MappingProxyType({"image": False}),
)


# --------------------------------------------------------------------------------------------- reading


def read_shard(place: Place, shard: Shard, rows: Rows, size: int, verify: bool) -> pa.Table:
    """The rows of a file that the manifest names.

    Args:
        place: of the cache.
        shard: the file, as the manifest describes it.
        rows: what it has one row for.
        size: side of the images in pixels.
        verify: compare the file's sha256. Page checksums are verified in any case.

    Raises:
        CacheError: the file is missing, damaged, or another one than the manifest describes.
    """
    content = read_file(place, shard.name, shard.sha256 if verify else None, size=shard.bytes)
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        reason = _unexpected(file, shard, rows, size)
        if not reason:
            table = file.read(use_threads=False)  # a thread that still holds `content` at exit aborts (Arrow)
            table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(place, shard.name, one_line(error)) from None
    if reason:
        raise damaged(place, shard.name, reason)
    for name, is_valid in VALID.items():
        if name in rows.facts.names and not is_valid(table.column(name).to_pylist()):
            raise damaged(place, shard.name, f"no {rows.noun} has such a value of {name}")
    return table


def _unexpected(file: pq.ParquetFile, shard: Shard, rows: Rows, size: int) -> str:
    """What makes a shard another one than the manifest says, before its rows are read; "" if nothing does."""
    footer = file.metadata
    if footer.num_rows != shard.rows:
        return f"it must have {shard.rows} rows but has {footer.num_rows}"
    if not file.schema_arrow.equals(rows.schema(size)):
        return f"it must have the columns of a cache of {size} x {size} pixels"
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(footer.num_columns)]
    if sum(chunk.num_values for chunk in chunks) > LARGEST_LIST * footer.num_columns * shard.rows:
        return f"a {rows.noun} must have at most {LARGEST_LIST} values in a column"
    if encodings := {encoding for chunk in chunks for encoding in chunk.encodings} - ENCODINGS:
        return f"its values must be written as {' or '.join(sorted(ENCODINGS))}, not as {min(encodings)}"
    unpacked = shard.rows * (len(rows.images) * size**2 + LARGEST_FACTS)
    largest = min(unpacked, SLACK + LARGEST_RATIO * shard.bytes)
    if sum(chunk.total_uncompressed_size for chunk in chunks) > largest:
        return f"it must not unpack to more than {largest} bytes"
    return ""


def _are_names(values: list[str]) -> bool:
    return max(map(len, values)) <= LONGEST_NAME


def _are_numbers(rows: list[list[float | None] | None]) -> bool:
    return all(row and all(n is not None and math.isfinite(n) for n in row) for row in rows)


VALID: Mapping[str, Callable[[list[Any]], bool]] = MappingProxyType(
    {
        "target_crop": _are_numbers,
        "reference_crop": _are_numbers,
        "crop": _are_numbers,
        "boxes": lambda rows: _are_numbers([box for boxes in rows for box in boxes]),
        "label": lambda values: set(values) <= {0, 1},
        "side": lambda values: set(values) <= {"L", "R"},
        "pair_id": _are_names,
        "film_id": _are_names,
        "patient_id": _are_names,
        "study_id": _are_names,
        "view": _are_names,
        "kinds": lambda rows: not any(kind is None for kinds in rows for kind in kinds),
    }
)
"""Columns whose values must be short names, known values, or finite numbers."""


# --------------------------------------------------------------------------------------------- writing


def write_shards(
    folder: Path, rows: Rows, values: Iterable[dict[str, Any]], size: int
) -> Iterator[dict[str, Any]]:
    """The manifest's entries for the files, each once it is written; `values` are read file by file."""
    values, number = iter(values), 0
    while batch := list(islice(values, SHARD)):
        table = pa.Table.from_pylist(batch, rows.schema(size))
        path = folder / f"{rows.kind}-{number:05d}.parquet"
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
        number += 1
