"""The files of a unit, and back. Each one names the unit that it belongs to.

curve.parquet          one row for each epoch
predictions.parquet    one row for each test pair
model.safetensors      the network's tensors (`checkpoints` have the same form)
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cgn.data.pairs import Pairs
from cgn.results import EpochReport, FoldResult, Predictions

CURVE = pa.schema(
    [
        ("epoch", pa.int64()),
        ("val_auc", pa.float64()),
        ("losses", pa.map_(pa.string(), pa.float64())),
        ("seconds", pa.float64()),
        ("val_scores", pa.list_(pa.float64())),
    ]
)
PREDICTIONS = pa.schema(
    [
        ("index", pa.int64()),
        ("pair_id", pa.string()),
        ("patient_id", pa.string()),
        ("fold", pa.int64()),
        ("label", pa.int64()),
        ("p_malignant", pa.float64()),
        ("box", pa.list_(pa.float64(), 4)),
        ("iou", pa.float64()),
        ("localized", pa.bool_()),
    ]
)


UNIT = "unit"
"""Key of the unit's id in the metadata of its files; files of earlier versions do not have it."""


def unit_named_in(name: str, content: bytes) -> str | None:
    """The id of the unit that an undamaged file belongs to; None if it was written without one."""
    if name.endswith(".parquet"):
        metadata = pq.read_schema(pa.BufferReader(content)).metadata or {}
        named = metadata.get(UNIT.encode())
        return None if named is None else named.decode()
    named = _safetensors_header(content)["__metadata__"].get(UNIT)
    return None if named is None else str(named)


def curve_parquet(reports: Sequence[EpochReport], unit_id: str) -> bytes:
    """The content of `curve.parquet`."""
    rows = [
        {
            "epoch": report.epoch,
            "val_auc": report.val_auc,
            "losses": list(report.losses.items()),
            "seconds": report.seconds,
            "val_scores": report.val_scores.tolist(),
        }
        for report in reports
    ]
    return _parquet(pa.Table.from_pylist(rows, CURVE), unit_id)


def predictions_parquet(result: FoldResult, pairs: Pairs, unit_id: str) -> bytes:
    """The content of `predictions.parquet`; `iou` and `localized` are null without a lesion (reading 20)."""
    test = result.predictions
    columns = (test.index, test.label, test.p_malignant, test.box, test.iou, test.localized)
    rows = [
        {
            "index": int(index),
            "pair_id": str(pairs.pair_id[index]),
            "patient_id": str(pairs.patient_id[index]),
            "fold": result.fold,
            "label": int(label),
            "p_malignant": float(score),
            "box": box.tolist(),
            "iou": None if math.isnan(iou) else float(iou),
            "localized": None if math.isnan(iou) else bool(localized),
        }
        for index, label, score, box, iou, localized in zip(*columns, strict=True)
    ]
    return _parquet(pa.Table.from_pylist(rows, PREDICTIONS), unit_id)


def read_parquet(content: bytes) -> pa.Table:
    """The table of either file; the checksum of each page is compared.

    Without threads: Arrow's threads may release `content`, for which they need the interpreter, after it has
    begun to end. The process is then aborted ("terminate called without an active exception").
    """
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    return file.read(use_threads=False)


def reports_of(curve: pa.Table, fold: int) -> tuple[EpochReport, ...]:
    """The epochs of a fold, from its curve."""
    return tuple(
        EpochReport(
            fold=fold,
            epoch=row["epoch"],
            val_auc=row["val_auc"],
            losses=dict(row["losses"]),
            seconds=row["seconds"],
            val_scores=np.array(row["val_scores"]),
        )
        for row in curve.to_pylist()
    )


def predictions_of(table: pa.Table) -> Predictions:
    """The predictions of a fold, from its table."""
    iou = [math.nan if value is None else value for value in table["iou"].to_pylist()]
    return Predictions(
        index=np.array(table["index"], np.int64),
        label=np.array(table["label"], np.int64),
        p_malignant=np.array(table["p_malignant"], np.float64),
        box=np.array(table["box"].to_pylist(), np.float64).reshape(-1, 4),
        iou=np.array(iou, np.float64),
        localized=np.array(table["localized"].fill_null(False), np.bool_),
    )


def to_safetensors(tensors: Mapping[str, Any], facts: Mapping[str, Any], unit_id: str) -> bytes:
    """Tensors and plain facts as one safetensors file. Equal content gives equal bytes."""
    metadata = {"facts": json.dumps(dict(facts)), UNIT: unit_id}
    if not tensors:  # torch is not imported for a header alone
        from safetensors.numpy import save as save_arrays

        return _ordered(save_arrays({}, metadata))
    from safetensors.torch import save

    return _ordered(
        save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    )


def _ordered(content: bytes) -> bytes:
    """The same file with a sorted header: the library writes several metadata in a random order."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(_safetensors_header(content), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def from_safetensors(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and facts of a file whose hash was compared before."""
    header = _safetensors_header(content)
    facts: dict[str, Any] = json.loads(header.pop("__metadata__")["facts"])
    if not header:
        return {}, facts
    from safetensors.torch import load

    return load(content), facts


def _safetensors_header(content: bytes) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    return header


def _parquet(table: pa.Table, unit_id: str) -> bytes:
    stream = io.BytesIO()
    named = table.replace_schema_metadata({UNIT: unit_id})
    pq.write_table(named, stream, compression="zstd", write_page_checksum=True)
    return stream.getvalue()
