"""Finished units, the only truth: one fold of one configuration, named by what it was made from.

    units/<id>/unit.json             written last: identity, result, seconds, sha256 of the others
    units/<id>/curve.parquet         a row an epoch
    units/<id>/predictions.parquet   a row a test pair
    units/<id>/model.safetensors     the network at its best epoch
    units/<id>/at-<epoch>-<sha256>.safetensors   where a fold stands that is not finished

The id is a hash of the configuration's fields that the method reads, fold, splits, cache and the code that
decides the numbers (`cgn.provenance`): equal units are computed once, whichever sweep or table asks.
Workers write, everybody reads; a unit
is there when its `unit.json` is. Every file is checked when it is first opened; a damaged one is
named and counts as absent, so that the unit is computed anew and never averaged.
"""

import hashlib
import io
import json
import logging
import math
import platform
import re
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from cgn import files
from cgn.config import Config
from cgn.data.pairs import Pairs
from cgn.errors import ConfigError, LedgerError
from cgn.provenance import fields_read, training_code
from cgn.results import EpochReport, FoldResult, FoldRun, FoldState, Memory, Predictions

FORMAT = 2  # the identity holds the fields that the method reads, and the code that decides its numbers
READABLE = (1, FORMAT)  # the identity of format 1 held all fields and all source files of `cgn`
DATA = ("curve.parquet", "predictions.parquet", "model.safetensors")
CHECKPOINT = "at-"

Log = Callable[[str], None]
_log = logging.getLogger(__name__).warning


# ------------------------------------------------------------------------------------------ identity


@dataclass(frozen=True)
class Identity:
    """What a unit is made from. Equal ones give equal bits on the same kind of machine.

    Attributes:
        config: the fields of the configuration that its method reads; weights given as a file are named by
            their content.
        fold: which one of the splits.
        splits, cache: fingerprints of the data.
        code: `cgn.provenance.training_code`.
    """

    config: Mapping[str, Any]
    fold: int
    splits: str
    cache: str
    code: str

    @classmethod
    def of(cls, config: Config, fold: int, *, splits: str, cache: str) -> Self:
        """The identity of a fold that the code of this process trains. Raises ConfigError."""
        read = fields_read(config.method)
        values = {name: value for name, value in config.model_dump(mode="json").items() if name in read}
        weights = Path(config.backbone_weights)
        if weights.is_file():
            status = weights.stat()
            values["backbone_weights"] = f"sha256:{_file_sha256(weights, status.st_mtime_ns, status.st_size)}"
        return cls(values, fold, splits, cache, training_code(config.method, config.backbone))

    @cached_property
    def id(self) -> str:
        """Twenty-four hexadecimal digits."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:24]


@lru_cache(maxsize=16)
def _file_sha256(path: Path, _modified: int, _size: int) -> str:
    """Of a file's content; read again if it was modified."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------------------------------------- unit


class Unit:
    """A finished unit, verified when it was opened; its parts are read when they are asked for."""

    def __init__(self, unit_id: str, facts: Mapping[str, Any], read: Callable[[str], bytes]) -> None:
        self.id, self.facts, self._read = unit_id, facts, read

    @property
    def identity(self) -> Identity:
        """What it was made from."""
        return Identity(**self.facts["identity"])

    @property
    def outdated(self) -> str | None:
        """Why no sweep or table of today's code reuses this unit; None if one may."""
        if self.facts["format"] == 1:
            return "format 1: its identity counted every source file of cgn and every field"
        identity = self.identity
        try:
            code = training_code(str(identity.config["method"]), str(identity.config["backbone"]))
        except ConfigError as error:
            return str(error)
        return None if code == identity.code else f"trained by code {identity.code}, today's is {code}"

    @cached_property
    def reports(self) -> tuple[EpochReport, ...]:
        """Its epochs, as they were told."""
        table = pq.read_table(pa.BufferReader(self._read("curve.parquet")), page_checksum_verification=True)
        fold = self.facts["identity"]["fold"]
        return tuple(
            EpochReport(
                fold, **{**row, "losses": dict(row["losses"]), "val_scores": np.array(row["val_scores"])}
            )
            for row in table.to_pylist()
        )

    @cached_property
    def predictions(self) -> pa.Table:
        """`predictions.parquet`: a row a test pair."""
        content = self._read("predictions.parquet")
        return pq.read_table(pa.BufferReader(content), page_checksum_verification=True)

    @cached_property
    def result(self) -> FoldResult:
        """As `cgn.fit.fit` returned it."""
        table, figures = self.predictions, self.facts["result"]
        predictions = Predictions(
            index=np.array(table["index"], np.int64),
            label=np.array(table["label"], np.int64),
            p_malignant=np.array(table["p_malignant"], np.float64),
            box=np.array(table["box"].to_pylist(), np.float64).reshape(-1, 4),
            iou=np.array([math.nan if iou is None else iou for iou in table["iou"].to_pylist()], np.float64),
            localized=np.array(table["localized"].fill_null(False), np.bool_),
        )
        numbers: dict[str, Any] = {
            name: math.nan if value is None else value for name, value in figures.items()
        }
        return FoldResult(**numbers, predictions=predictions, state=_Tensors(self))

    def model(self) -> dict[str, Any]:
        """The network's tensors at its best epoch."""
        return _tensors(self._read("model.safetensors"))[0]


class _Tensors(Mapping[str, Any]):
    """A unit's tensors, read when the first one is asked for: a resume needs none of them."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    @cached_property
    def _all(self) -> dict[str, Any]:
        return self._unit.model()

    def __getitem__(self, name: str) -> Any:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


# -------------------------------------------------------------------------------------------- ledger


class Ledger:
    """Finished units in a folder, or wherever pyarrow knows the file system (`s3://`, `gs://`).

    Args:
        where: the folder or the address.
        every: epochs between two checkpoints of a fold that is training.
        say: told of what is damaged, in a line.
    """

    def __init__(self, where: str | Path, every: int = 5, say: Log = _log) -> None:
        self.every, self._say = every, say
        self._place = _place(str(where))
        self.where = shown(str(where))

    def find(self, unit_id: str) -> Unit | None:
        """The unit, whole; None where there is none or it is damaged, which is then said."""
        if "unit.json" not in self._place.names(unit_id):
            return None
        try:
            return self.open(unit_id)
        except LedgerError as error:
            self._say(str(error))
            return None

    def open(self, unit_id: str, *, verify: bool = True) -> Unit:
        """The unit, every file of it compared with its sha256; else each when it is read.

        Raises:
            LedgerError: there is none, or it is damaged; the message names the file.
        """
        facts = self._facts(unit_id)

        def read(name: str) -> bytes:
            content = self._place.read(f"{unit_id}/{name}")
            if content is None or _sha256(content) != facts["files"][name]:
                raise _damaged(unit_id, name, "missing" if content is None else "its sha256 differs")
            return content

        for name in DATA if verify else ():
            read(name)
        return Unit(unit_id, facts, read)

    def names(self) -> list[str]:
        """Ids of the units that are finished, damaged ones among them."""
        return sorted(name for name in self._place.folders() if "unit.json" in self._place.names(name))

    def unfinished(self) -> dict[str, int]:
        """Units with a checkpoint and no result, and how many epochs they have."""
        found = {name: self._place.names(name) for name in self._place.folders()}
        return {
            name: max(epochs)
            for name, files in sorted(found.items())
            if "unit.json" not in files and (epochs := [_epochs(file) for file in files if _epochs(file)])
        }

    def damage(self, unit_id: str) -> str | None:
        """What is wrong with a unit, re-hashed from storage; None where it is whole."""
        try:
            self.open(unit_id)
        except LedgerError as error:
            return str(error)
        return None

    def write(
        self, identity: Identity, reports: Sequence[EpochReport], result: FoldResult, pairs: Pairs
    ) -> None:
        """A finished unit; `unit.json` is written last, and its checkpoints are removed after it.

        Two workers may have trained it at once, as where a lost one was not quite gone: the first stands.

        Raises:
            LedgerError: the storage takes no more.
        """
        if self.find(identity.id):
            self.forget(identity.id)
            return
        content = {
            "curve.parquet": _parquet(_curve(reports)),
            "predictions.parquet": _parquet(_predictions(result, pairs)),
            "model.safetensors": _safetensors(result.state, {}),
        }
        figures = {name: _number(getattr(result, name)) for name in FIGURES}
        facts = {
            "format": FORMAT,
            "id": identity.id,
            "identity": asdict(identity),
            "state": "finished",
            "result": figures,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # of the process
            "environment": _environment(result.state),
            "files": {name: _sha256(data) for name, data in content.items()},
        }
        try:
            for name, data in content.items():
                self._place.write(f"{identity.id}/{name}", data)
            sealed = facts | {"sha256": _digest(facts)}
            self._place.write(f"{identity.id}/unit.json", (json.dumps(sealed, indent=1) + "\n").encode())
            self.forget(identity.id)
        except OSError as error:
            raise LedgerError(
                f"unit {identity.id} cannot be written to {self.where}: {_line(error)}"
            ) from error

    def forget(self, unit_id: str) -> None:
        """Remove the checkpoints of a unit: it is finished, or nobody will go on with it."""
        try:
            for name in self._place.names(unit_id):
                if _epochs(name):
                    self._place.remove(f"{unit_id}/{name}")
            self._place.tidy(unit_id)
        except OSError as error:
            raise LedgerError(
                f"checkpoints of unit {unit_id} cannot be removed from {self.where}: {_line(error)}"
            ) from error

    def memory(self, identity: Identity) -> Memory:
        """Where a fold of this identity finds and leaves its checkpoints."""
        return _Checkpoints(self._place, identity.id, self.every, self._say)

    def remembered(self, identity: Identity, pairs: Pairs, train: Callable[[Memory], FoldRun]) -> FoldRun:
        """The fold's epochs and result: read where it is finished, trained and written where it is not.

        Raises what training raises, and LedgerError where the result cannot be written.
        """
        if unit := self.find(identity.id):
            self.forget(identity.id)  # whoever finished it may have been killed before it did
            yield from unit.reports
            return unit.result
        run, reports = train(self.memory(identity)), []
        while True:
            try:
                report = next(run)
            except StopIteration as end:
                result: FoldResult = end.value
                break
            reports.append(report)
            yield report
        self.write(identity, reports, result, pairs)
        return result

    def _facts(self, unit_id: str) -> dict[str, Any]:
        content = self._place.read(f"{unit_id}/unit.json")
        if content is None:
            raise LedgerError(f"no unit {unit_id} in {self.where}: 'cgn units' lists those there are")
        try:
            facts: dict[str, Any] = json.loads(content)
            sealed, form = facts.pop("sha256"), facts["format"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _damaged(unit_id, "unit.json", "it cannot be read") from None
        if sealed != _digest(facts):
            raise _damaged(unit_id, "unit.json", "its sha256 differs")
        if form not in READABLE:
            raise LedgerError(
                f"unit {unit_id} has format {form} but this version reads formats up to {FORMAT}: read "
                "it with the version of cgn-platform that wrote it, or a later one"
            )
        return facts


@dataclass
class _Checkpoints:
    """A `Memory`: one file a state, whose name tells its epoch and its hash; the newest whole one counts."""

    place: "_Place"
    unit_id: str
    every: int
    say: Log

    def load(self) -> FoldState | None:
        names = sorted((name for name in self.place.names(self.unit_id) if _epochs(name)), key=_epochs)
        for name in reversed(names):
            content = self.place.read(f"{self.unit_id}/{name}")
            if (
                content is not None
                and _sha256(content) == name.removesuffix(".safetensors").rpartition("-")[2]
            ):
                return FoldState(*_tensors(content))
            self.say(f"checkpoint {name} of unit {self.unit_id} is damaged: an older one is taken, or none")
        return None

    def save(self, state: FoldState) -> None:
        content = _safetensors(state.tensors, state.facts)
        epochs = len(state.facts["reports"])
        name = f"{CHECKPOINT}{epochs:05d}-{_sha256(content)}.safetensors"
        older = [name for name in self.place.names(self.unit_id) if 0 < _epochs(name) < epochs]
        try:
            self.place.write(f"{self.unit_id}/{name}", content)
        except OSError as error:  # training goes on: a later one may fit, or the result
            self.say(f"a checkpoint of unit {self.unit_id} cannot be written: {_line(error)}")
            return
        for left in older:
            self.place.remove(f"{self.unit_id}/{left}")


# ----------------------------------------------------------------------------------------- content

FIGURES = (
    "fold",
    "best_epoch",
    "val_auc",
    "test_auc",
    "localization_error",
    "localization_error_any_class",
    "seconds",
)
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


def _curve(reports: Sequence[EpochReport]) -> pa.Table:
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
    return pa.Table.from_pylist(rows, CURVE)


def _predictions(result: FoldResult, pairs: Pairs) -> pa.Table:
    """Null where a target has no box: nothing there could be found (reading 20)."""
    told = result.predictions
    columns = (told.index, told.label, told.p_malignant, told.box, told.iou, told.localized)
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
    return pa.Table.from_pylist(rows, PREDICTIONS)


def _parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    return stream.getvalue()


def _safetensors(tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> bytes:
    told = {"facts": json.dumps(dict(facts))}
    if not tensors:  # of a simulated trainer, whose workers load no torch
        from safetensors.numpy import save as save_arrays

        return bytes(save_arrays({}, told))
    from safetensors.torch import save

    return bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, told))


def _tensors(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and facts of a file whose hash was compared before."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    facts: dict[str, Any] = json.loads(header.pop("__metadata__")["facts"])
    if not header:
        return {}, facts
    from safetensors.torch import load

    return load(content), facts


def _environment(state: Mapping[str, Any]) -> dict[str, Any]:
    """What else may change bits: named, so that a difference can be explained."""
    device = next((str(tensor.device) for tensor in state.values()), "none")
    on_gpu = device.startswith("cuda")  # as `cgn.fit` sets it there
    return {
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device,
        "channels_last": on_gpu,
        "fused_adam": on_gpu,
    }


@cache
def _version(package: str) -> str:
    return metadata.version(package)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(value: Any) -> str:
    return _sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def _epochs(name: str) -> int:
    """Epochs behind a checkpoint, of its name; 0 for other files."""
    number = name.removeprefix(CHECKPOINT).partition("-")[0]
    return int(number) if name.startswith(CHECKPOINT) and number.isdigit() else 0


def _damaged(unit_id: str, name: str, why: str) -> LedgerError:
    return LedgerError(
        f"{name} of unit {unit_id} is damaged ({why}): the unit is computed anew when it is asked for"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


# ----------------------------------------------------------------------------------------- storage


class _Place(Protocol):
    """The waist to storage. `write` is all or nothing; names are relative, one folder deep."""

    def read(self, name: str) -> bytes | None:
        """A file; None where it is not there."""

    def write(self, name: str, content: bytes) -> None:
        """A file, whole or not at all, over what was there. Raises OSError."""

    def remove(self, name: str) -> None:
        """A file, if it is there."""

    def tidy(self, folder: str) -> None:
        """Remove what a process that was killed had not finished writing there."""

    def names(self, folder: str) -> list[str]:
        """Files of a folder; none where it is not there."""

    def folders(self) -> list[str]:
        """All there are."""


class _Folder:
    """A local or shared folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, content)

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def tidy(self, folder: str) -> None:
        for path in (self._root / folder).glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        try:
            return [path.name for path in (self._root / folder).iterdir() if not path.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def folders(self) -> list[str]:
        return self.names(".")


class _Bucket:
    """A store of objects: each is written whole by its service."""

    def __init__(self, where: str) -> None:
        try:
            self._system, self._root = pa.fs.FileSystem.from_uri(where)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise LedgerError(f"no ledger can be kept at {shown(where)}: {_line(error)}") from None

    def read(self, name: str) -> bytes | None:
        try:
            with self._system.open_input_file(f"{self._root}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        self._system.create_dir(f"{self._root}/{name.rpartition('/')[0]}")
        with self._system.open_output_stream(f"{self._root}/{name}") as stream:
            stream.write(content)

    def remove(self, name: str) -> None:
        if self._info(name).type == pa.fs.FileType.File:
            self._system.delete_file(f"{self._root}/{name}")

    def tidy(self, folder: str) -> None:
        """Nothing: an object is there whole, or not at all."""

    def names(self, folder: str) -> list[str]:
        return self._list(folder, pa.fs.FileType.File)

    def folders(self) -> list[str]:
        return self._list("", pa.fs.FileType.Directory)

    def _info(self, name: str) -> Any:
        return self._system.get_file_info(f"{self._root}/{name}")

    def _list(self, folder: str, kind: Any) -> list[str]:
        selector = pa.fs.FileSelector(f"{self._root}/{folder}".rstrip("/"), allow_not_found=True)
        return [info.base_name for info in self._system.get_file_info(selector) if info.type == kind]


def _place(where: str) -> _Place:
    return _Bucket(where) if "://" in where and not where.startswith("file://") else _Folder(_local(where))


def _local(where: str) -> Path:
    return Path(where.removeprefix("file://")).absolute()


def shown(where: str) -> str:
    """An address as it may be printed: without a key or a secret that it may carry."""
    return re.sub(r"//[^/@]*@", "//", where.partition("?")[0])
