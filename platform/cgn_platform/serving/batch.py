"""Predictions for a table of films, with Ray Data: finished parts, and a list of rows without a prediction.

    OUT/part-*.parquet          one row for each film with a film of the other side, numbered as in the table
    OUT/_quarantine.csv         rows without a prediction, and the reason
    OUT/_model/                 the ensemble that predicts, copied beside its predictions
    OUT/_manifest.sha256        hash of the table

The folder is a Parquet data set: its readers pass over names that begin with an underscore. Films have the
pseudonyms of a cache; the number of the row leads to the image in the owner's table.

A part is written atomically by the actor that predicted it. The same command resumes: rows in a finished part
are not predicted again, quarantined rows are.
"""

import csv
import hashlib
import io
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from numpy.typing import NDArray

from cgn import files
from cgn.data.datasets import manifest
from cgn.data.identity.pseudonym import open_pseudonyms
from cgn.data.reading.films import Film, FilmPair
from cgn.errors import ConfigError, one_line
from cgn.lock import exclusive
from cgn.predict import Ensemble, PairPrediction, read_facts

MODEL, TABLE_HASH, QUARANTINE = "_model", "_manifest.sha256", "_quarantine.csv"
BATCH = 32
"""Pairs in a part: so many are lost with a killed worker."""

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("reference_row", pa.int64()),
        ("pair_id", pa.string()),
        ("patient_id", pa.string()),
        ("side", pa.string()),
        ("view", pa.string()),
        ("p_malignant", pa.float64()),
        ("spread", pa.float64()),
        ("fold_p", pa.list_(pa.float64())),
        ("box", pa.list_(pa.float64(), 4)),
        ("warnings", pa.list_(pa.string())),
    ]
)


FORMER_NAMES = {name.removeprefix("_"): name for name in (MODEL, TABLE_HASH, QUARANTINE)}
"""Of files that lay among the parts in earlier versions, and what they are called now."""


class Names(NamedTuple):
    """How a part names a film: by the pseudonyms that a cache of the same table has."""

    pair_id: str
    patient_id: str
    side: str
    view: str


class ListedFilms(NamedTuple):
    """Films and their names by row, and the row of each film's reference (Sec. IV-B), if it has one."""

    films: Mapping[int, Film]
    names: Mapping[int, Names]
    references: Mapping[int, int | None]


class Rejected(NamedTuple):
    """A row of the quarantine: a film without a prediction."""

    row: int
    film: str  # "target" or "reference"
    reason: str
    message: str


@dataclass(frozen=True)
class BatchResult:
    """What a call did.

    Attributes:
        predicted: rows that were predicted now.
        existing: rows that were in finished parts.
        quarantined: rows without a prediction.
        quarantine: the file that lists them; None without any.
    """

    predicted: int
    existing: int
    quarantined: int
    quarantine: Path | None


def _ignore_progress(_done: int, _total: int) -> None:
    pass


def predict_table(
    table: Path,
    out: Path,
    model: Path,
    *,
    slots: int,
    warn: Callable[[str], None] = print,
    on_progress: Callable[[int, int], None] = _ignore_progress,
) -> BatchResult:
    """Predict every film of a table that has a film of the other side. Ray must be connected.

    Args:
        table: as `cgn cache manifest` reads it; labels are ignored.
        out: a folder for this call only, which all workers can reach; created if it does not exist.
        model: what `Ensemble.load` takes.
        slots: number of actors, one CPU each.
        warn: called with a line on each damaged part.
        on_progress: called with the number of finished rows and of all rows to predict.

    Raises:
        NotADatasetError: the table cannot be read; the message lists every problem of its rows.
        ModelError: the model does not exist or is damaged.
        ConfigError: `out` belongs to another table or model, or another process is using it.
    """
    listed = _read_films(table)
    rejected = [
        Rejected(row, "reference", "no_reference", "the table has no film of the other side")
        for row, reference in listed.references.items()
        if reference is None
    ]
    busy = ConfigError(
        f"another process is predicting into {out}", remedy="wait for it or choose another --out"
    )
    with exclusive(out / ".lock", busy):
        _check_folder(out, table, model)
        existing = _finished_rows(out, listed.names, warn)
        remaining = {
            row: reference
            for row, reference in listed.references.items()
            if reference is not None and row not in existing
        }
        failed = _predict_rows(remaining, listed, out, slots, on_progress) if remaining else []
        rejected += failed
        quarantine = _write_quarantine(out, rejected)
        return BatchResult(len(remaining) - len(failed), len(existing), len(rejected), quarantine)


def _read_films(table: Path) -> ListedFilms:
    """The films of a table. Raises NotADatasetError."""
    listed = manifest.list_films(table.absolute())  # workers run in other folders
    films = {film.number: film.film() for film in listed}
    pseudonyms = open_pseudonyms()
    names = {
        film.number: Names(
            pseudonyms.of("pair", film.row.image),
            pseudonyms.of("patient", film.row.patient),
            film.row.laterality,
            film.row.view,
        )
        for film in listed
    }
    references = {
        match.target.number: match.reference.number if match.reference else None
        for match in manifest.match_films(listed)
    }
    return ListedFilms(films, names, references)


def _predict_rows(
    references: Mapping[int, int],
    listed: ListedFilms,
    out: Path,
    slots: int,
    on_progress: Callable[[int, int], None],
) -> list[Rejected]:
    """Predict these rows, given the row of each one's reference. Returns those without a prediction."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"row": row, "reference": reference} for row, reference in references.items()]
    blocks = -(-len(rows) // BATCH)
    outcomes = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        PredictionActor,
        fn_constructor_kwargs={"listed": listed, "out": out.absolute()},
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=min(slots, blocks)),
        num_cpus=1,
    )
    rejected = []
    for done, outcome in enumerate(outcomes.iter_rows(), 1):
        if outcome["reason"]:
            rejected.append(Rejected(outcome["row"], outcome["film"], outcome["reason"], outcome["message"]))
        on_progress(done, len(rows))
    return rejected


class PredictionActor:
    """Predicts batches of rows and writes a part for each."""

    def __init__(self, listed: ListedFilms, out: Path) -> None:
        self._listed, self._out = listed, out
        self._ensemble = Ensemble.load(out / MODEL, processes=1)

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, list[Any]]:
        """Columns `row` and `reference` in; out, for each row, why it has no prediction, or empty."""
        rows, references = batch["row"].tolist(), batch["reference"].tolist()
        pairs = [
            FilmPair(self._listed.films[row], self._listed.films[reference], str(row))
            for row, reference in zip(rows, references, strict=True)
        ]
        predictions = self._ensemble.predict(pairs)
        part = [
            _part_row(row, reference, self._listed.names[row], prediction)
            for row, reference, prediction in zip(rows, references, predictions, strict=True)
            if prediction.refused is None
        ]
        if part:
            name = hashlib.sha256(str([row["row"] for row in part]).encode()).hexdigest()[:12]
            files.write(self._out / f"part-{part[0]['row']:08d}-{name}.parquet", _parquet(part))
        refusals = [prediction.refused for prediction in predictions]
        return {
            "row": rows,
            "film": [refusal.role if refusal else "" for refusal in refusals],
            "reason": [refusal.reason if refusal else "" for refusal in refusals],
            "message": [refusal.message if refusal else "" for refusal in refusals],
        }


def _part_row(row: int, reference: int, names: Names, prediction: PairPrediction) -> dict[str, Any]:
    return {
        "row": row,
        "reference_row": reference,
        **names._asdict(),
        "p_malignant": prediction.p_malignant,
        "spread": prediction.spread,
        "fold_p": prediction.fold_p,
        "box": prediction.box,
        "warnings": prediction.warnings,
    }


def _check_folder(out: Path, table: Path, model: Path) -> None:
    """Reserve the folder for this table and this model; refuse another table or model."""
    for former, name in FORMER_NAMES.items():
        if (out / former).exists() and not (out / name).exists():
            (out / former).rename(out / name)
    sha256, recorded = hashlib.sha256(table.read_bytes()).hexdigest(), out / TABLE_HASH
    if recorded.exists() and recorded.read_text().strip() != sha256:
        raise ConfigError(f"{out} was made from another table", remedy="choose another --out")
    facts, copy = read_facts(model), out / MODEL
    if copy.exists() and read_facts(copy) != facts:
        raise ConfigError(f"{out} was made by another model", remedy="choose another --out")
    if not copy.exists():
        with files.atomic(copy) as draft:
            shutil.copytree(model, draft)
    with Ensemble.load(copy):  # a damaged model is reported here, not by an actor
        pass
    if not recorded.exists():
        files.write(recorded, f"{sha256}\n")


def _finished_rows(out: Path, names: Mapping[int, Names], warn: Callable[[str], None]) -> set[int]:
    """The rows of all intact parts; damaged parts are removed, and films are named in those that do not."""
    rows: set[int] = set()
    for part in sorted(out.glob("part-*.parquet")):
        try:
            table = pq.read_table(part, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            warn(f"{part.name} is damaged ({one_line(error)}): its rows are predicted again")
            part.unlink()
            continue
        if table.schema != SCHEMA:  # of an earlier version
            named = [{**row, **names[row["row"]]._asdict()} for row in table.to_pylist()]
            files.write(part, _parquet(named))
        rows |= set(table["row"].to_pylist())
    return rows


def _write_quarantine(out: Path, rejected: Sequence[Rejected]) -> Path | None:
    path = out / QUARANTINE
    if not rejected:
        path.unlink(missing_ok=True)
        return None
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([Rejected._fields, *sorted(rejected)])
    files.write(path, stream.getvalue())
    return path


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(list(rows), SCHEMA), stream, compression="zstd", write_page_checksum=True
    )
    return stream.getvalue()
