"""The Parquet files of a unit, and back.

curve.parquet          one row for each epoch
predictions.parquet    one row for each test pair
"""

import io
import math
from collections.abc import Sequence

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


def curve_parquet(reports: Sequence[EpochReport]) -> bytes:
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
    return _parquet(pa.Table.from_pylist(rows, CURVE))


def predictions_parquet(result: FoldResult, pairs: Pairs) -> bytes:
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
    return _parquet(pa.Table.from_pylist(rows, PREDICTIONS))


def read_parquet(content: bytes) -> pa.Table:
    """The table of either file; the checksum of each page is compared."""
    return pq.read_table(pa.BufferReader(content), page_checksum_verification=True)


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


def _parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    return stream.getvalue()
