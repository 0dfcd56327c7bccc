"""Predictions for a whole table of films, by Ray Data: parts that stand, rows that cannot be used in a list.

    OUT/model/                  the ensemble that predicts, beside what it said
    OUT/manifest.sha256         of the table
    OUT/part-*.parquet          a row a film that has one of the other side, named by the table's rows
    OUT/quarantine.csv          rows without a prediction, and why

A part is written whole or not at all, by the actor that made it. The same command goes on where it was
stopped: rows that stand in a part are not predicted again, those in quarantine are.
"""

import csv
import hashlib
import io
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from cgn.data.films import Film, FilmPair
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cgn import files
from cgn.data.datasets import manifest
from cgn.data.pairing import contralateral
from cgn.errors import ConfigError
from cgn.predict import Ensemble, PairPrediction, read_facts

BATCH = 32
"""Pairs a part: as many as a killed worker costs."""


SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("reference_row", pa.int64()),
        ("p_malignant", pa.float64()),
        ("spread", pa.float64()),
        ("fold_p", pa.list_(pa.float64())),
        ("box", pa.list_(pa.float64(), 4)),
        ("warnings", pa.list_(pa.string())),
    ]
)


QUARANTINE = ("row", "film", "reason", "message")


@dataclass(frozen=True)
class BatchResult:
    """What a call did: rows predicted now, rows that stood already, and where the others are listed."""

    predicted: int
    stood: int
    quarantined: int
    quarantine: Path | None


def _quietly(_done: int, _total: int) -> None:
    pass


def predict_table(
    table: Path,
    out: Path,
    model: Path,
    *,
    slots: int,
    say: Callable[[str], None] = print,
    on_progress: Callable[[int, int], None] = _quietly,
) -> BatchResult:
    """Predict every film of a table that has one of the other side. Ray must be connected.

    Args:
        table: as `cgn cache manifest` reads it; labels are not looked at.
        out: a folder of its own, which all workers reach; made if it is not there.
        model: what `Ensemble.load` takes.
        slots: actors at once, a CPU each.
        say: told of damaged parts, in a line.
        on_progress: told how many rows of how many are done.

    Raises:
        NotADatasetError: no table, or every problem of its rows.
        ModelError: no model, or a damaged one.
        ConfigError: `out` belongs to another table or model, or another process works there.
    """
    rows = dict(manifest.read_rows(table))
    films = {number: _film(row, table.parent) for number, row in rows.items()}
    paired = contralateral(
        [manifest.Film(row, number, table.parent / row.image) for number, row in rows.items()],
        lambda film: (film.row.patient, film.row.study, film.row.view),
        lambda a, b: abs(a.number - b.number),
    )
    reference = {pair.target.number: pair.reference.number if pair.reference else None for pair in paired}
    rejected = [
        (number, "reference", "no_reference", "the table has no film of the other side")
        for number, other in reference.items()
        if other is None
    ]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            _claim(out, table, model)
            stood = _standing(out, say)
            left = [
                {"row": n, "reference": other}
                for n, other in reference.items()
                if other is not None and n not in stood
            ]
            told = _run(left, films, out, slots, on_progress) if left else []
            rejected += told
            return BatchResult(len(left) - len(told), len(stood), len(rejected), _quarantine(out, rejected))
    except Timeout:
        raise ConfigError(f"another process predicts into {out}: wait for it or take another --out") from None


def _film(row: manifest.Row, folder: Path) -> Film:
    return Film((folder / row.image).absolute(), row.laterality, row.view, row.bits, row.chest_wall)


def _run(
    left: Sequence[Mapping[str, int]],
    films: Mapping[int, Film],
    out: Path,
    slots: int,
    on_progress: Callable[[int, int], None],
) -> list[tuple[int, str, str, str]]:
    """Rows without a prediction, and why."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    blocks = -(-len(left) // BATCH)
    made = ray.data.from_items(list(left), override_num_blocks=blocks).map_batches(
        _Predictor,
        fn_constructor_kwargs={"films": films, "out": out.absolute()},
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=min(slots, blocks)),
        num_cpus=1,
    )
    rejected = []
    for done, told in enumerate(made.iter_rows(), 1):
        if told["reason"]:
            rejected.append((told["row"], told["film"], told["reason"], told["message"]))
        on_progress(done, len(left))
    return rejected


class _Predictor:
    """An actor: a batch of rows in, a part on disk, and what became of each row out."""

    def __init__(self, films: Mapping[int, Film], out: Path) -> None:
        self._films, self._out = films, out
        self._ensemble = Ensemble.load(out / "model", processes=1)

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, list[Any]]:
        rows, references = batch["row"].tolist(), batch["reference"].tolist()
        pairs = [
            FilmPair(self._films[row], self._films[other], str(row))
            for row, other in zip(rows, references, strict=True)
        ]
        said = self._ensemble.predict(pairs)
        made = [
            _row(row, other, each)
            for row, other, each in zip(rows, references, said, strict=True)
            if each.refused is None
        ]
        if made:
            name = hashlib.sha256(str([row["row"] for row in made]).encode()).hexdigest()[:12]
            files.write(self._out / f"part-{made[0]['row']:08d}-{name}.parquet", _parquet(made))
        why = [each.refused for each in said]
        return {
            "row": rows,
            "film": [each.role if each else "" for each in why],
            "reason": [each.reason if each else "" for each in why],
            "message": [each.message if each else "" for each in why],
        }


def _row(row: int, reference: int, said: PairPrediction) -> dict[str, Any]:
    return {
        "row": row,
        "reference_row": reference,
        "p_malignant": said.p_malignant,
        "spread": said.spread,
        "fold_p": said.fold_p,
        "box": said.box,
        "warnings": said.warnings,
    }


def _claim(out: Path, table: Path, model: Path) -> None:
    """This folder is for this table and this model, now and when it is gone on with."""
    sha256, named = hashlib.sha256(table.read_bytes()).hexdigest(), out / "manifest.sha256"
    if named.exists() and named.read_text().strip() != sha256:
        raise ConfigError(f"{out} was made from another table: choose another --out")
    facts, kept = read_facts(model), out / "model"
    if kept.exists() and read_facts(kept) != facts:
        raise ConfigError(f"{out} was made by another model: choose another --out")
    if not kept.exists():
        with files.atomic(kept) as draft:
            shutil.copytree(model, draft)
    with Ensemble.load(kept):  # damaged? said here, in a line
        pass
    if not named.exists():
        files.write(named, f"{sha256}\n")


def _standing(out: Path, say: Callable[[str], None]) -> set[int]:
    """Rows of the parts that are whole; damaged ones are removed."""
    rows: set[int] = set()
    for part in sorted(out.glob("part-*.parquet")):
        try:
            table = pq.read_table(part, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            say(f"{part.name} is damaged ({' '.join(str(error).split())}): its rows are predicted again")
            part.unlink()
            continue
        rows |= set(table["row"].to_pylist())
    return rows


def _quarantine(out: Path, rejected: Sequence[tuple[int, str, str, str]]) -> Path | None:
    path = out / "quarantine.csv"
    if not rejected:
        path.unlink(missing_ok=True)
        return None
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([QUARANTINE, *sorted(rejected)])
    files.write(path, stream.getvalue())
    return path


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(list(rows), SCHEMA), stream, compression="zstd", write_page_checksum=True
    )
    return stream.getvalue()
