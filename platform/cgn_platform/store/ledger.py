"""The ledger of finished folds: one unit for each fold of a configuration, named by its identity.

    units/<id>/unit.json             written last: identity, result, seconds, sha256 of the other files
    units/<id>/curve.parquet         one row for each epoch
    units/<id>/predictions.parquet   one row for each test pair
    units/<id>/model.safetensors     the network at its best epoch
    units/<id>/at-*.safetensors      checkpoints of a fold that is not finished (`checkpoints`)

The id is a hash of the configuration's fields that the method reads, the fold, the splits, the cache and the
code that decides the numbers (`cgn.provenance`), so equal units are computed once, whichever sweep or table
needs them. Workers write, all processes read; a unit exists once its `unit.json` does. Every file is verified
when it is opened: its hash, and that it belongs to the unit of this folder, whose name is the hash of the
identity in `unit.json`. A damaged unit is reported and counts as missing: it is computed again, and never
averaged.
"""

import hashlib
import logging
import math
import platform
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from cgn.config import Config
from cgn.data.pairs import Pairs
from cgn.errors import ConfigError, LedgerError, one_line
from cgn.places import Place, shown
from cgn.provenance import fields_read, training_code
from cgn.results import CheckpointStore, EpochReport, FoldResult
from cgn.sealed import DamagedError, FormatError, canonical, seal, sha256, unseal
from cgn_platform.store.checkpoints import Checkpoints, epochs_of, is_checkpoint
from cgn_platform.store.unit_files import (
    curve_parquet,
    from_safetensors,
    predictions_of,
    predictions_parquet,
    read_parquet,
    reports_of,
    to_safetensors,
    unit_named_in,
)
from cgn_platform.store.unit_storage import UnitStorage, UnreachableError, damaged

FORMAT = 2
"""The identity holds the fields that the method reads, and the code that decides its numbers."""
READABLE = (1, FORMAT)
"""The identity of format 1 held all fields, and all source files of `cgn`."""
FACTS = "unit.json"
DATA = ("curve.parquet", "predictions.parquet", "model.safetensors")
FIGURES = (
    "fold",
    "best_epoch",
    "val_auc",
    "test_auc",
    "localization_error",
    "localization_error_any_class",
    "seconds",
    "before_seconds",
    "healthy_films",
    "made_difference",
)
Warn = Callable[[str], None]
_log = logging.getLogger(__name__).warning


@dataclass(frozen=True)
class Identity:
    """What determines a unit. Equal identities give equal bits on the same kind of machine.

    Attributes:
        config: the fields of the configuration that its method reads; a file of weights is named by its
            content.
        fold: number of the split.
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
        return unit_id_of(asdict(self))


def unit_id_of(identity: Mapping[str, Any]) -> str:
    """The id of the unit of an identity, given as plain values; the same for every format."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:24]


@lru_cache(maxsize=16)
def _file_sha256(path: Path, _modified: int, _size: int) -> str:
    """The hash of a file's content; the file is read again once it was modified."""
    return sha256(path.read_bytes())


class Unit:
    """A finished unit. Its files are read on first use.

    Attributes:
        id: see `Identity`.
        facts: content of `unit.json`.
    """

    def __init__(self, unit_id: str, facts: Mapping[str, Any], read: Callable[[str], bytes]) -> None:
        self.id, self.facts, self._read = unit_id, facts, read

    @property
    def identity(self) -> Identity:
        """What it was made from."""
        fields: Mapping[str, Any] = self.facts["identity"]
        return Identity(fields["config"], fields["fold"], fields["splits"], fields["cache"], fields["code"])

    @property
    def outdated(self) -> str | None:
        """Why sweeps and tables of the current code do not reuse this unit; None if they do."""
        if self.facts["format"] == 1:
            return "format 1: its identity counted every source file of cgn and every field"
        identity = self.identity
        try:
            code = training_code(str(identity.config["method"]), str(identity.config["backbone"]))
        except ConfigError as error:
            return str(error)
        return (
            None if code == identity.code else f"trained by code {identity.code}, the current code is {code}"
        )

    @cached_property
    def reports(self) -> tuple[EpochReport, ...]:
        """Its epochs, as training reported them."""
        return reports_of(read_parquet(self._read("curve.parquet")), self.facts["identity"]["fold"])

    @cached_property
    def predictions(self) -> pa.Table:
        """`predictions.parquet`: one row for each test pair."""
        return read_parquet(self._read("predictions.parquet"))

    @cached_property
    def result(self) -> FoldResult:
        """As `cgn.fit.fit` returned it."""
        figures: Mapping[str, Any] = self.facts["result"]

        def number(name: str) -> float:
            value = figures.get(name)
            return math.nan if value is None else float(value)

        return FoldResult(
            fold=figures["fold"],
            best_epoch=figures["best_epoch"],
            val_auc=number("val_auc"),
            test_auc=number("test_auc"),
            localization_error=number("localization_error"),
            localization_error_any_class=number("localization_error_any_class"),
            predictions=predictions_of(self.predictions),
            seconds=number("seconds"),
            state=_Tensors(self),
            before_seconds=figures.get("before_seconds", 0.0),  # older units have no stages
            healthy_films=figures.get("healthy_films", 0),
            made_difference=number("made_difference"),
        )

    def model(self) -> dict[str, Any]:
        """The network's tensors at its best epoch."""
        return from_safetensors(self._read("model.safetensors"))[0]


class _Tensors(Mapping[str, Any]):
    """The tensors of a unit, read on first use: a resumed sweep needs none of them."""

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


class Ledger:
    """Finished units in a folder, or at an address that pyarrow supports (`s3://`, `gs://`).

    Pickled by its address: a worker that receives a ledger opens it again.
    """

    def __init__(self, address: str | Path, checkpoint_every: int = 5, warn: Warn = _log) -> None:
        """Open a ledger; nothing is read or written.

        Args:
            address: a folder or an address.
            checkpoint_every: epochs between two checkpoints of a fold in training.
            warn: called with a line on each damaged unit or checkpoint.

        Raises:
            LedgerError: no ledger can be kept at this address.
        """
        self.checkpoint_every, self._warn = checkpoint_every, warn
        try:
            self.place = Place(address)
        except OSError as error:
            raise LedgerError(f"no ledger can be kept at {shown(str(address))}: {one_line(error)}") from None
        self._storage = UnitStorage(self.place)

    @property
    def where(self) -> str:
        """The address as it may be printed."""
        return self.place.shown

    def __reduce__(self) -> tuple[Any, ...]:
        return Ledger, (self.place.address, self.checkpoint_every)

    def find(self, unit_id: str) -> Unit | None:
        """The verified unit; None if it is missing or, with a warning, if it is damaged.

        Raises:
            UnreachableError: the storage failed.
        """
        try:
            return self.open(unit_id) if FACTS in self._storage.entries(unit_id) else None
        except UnreachableError:
            raise
        except LedgerError as error:
            self._warn(str(error))
            return None

    def open(self, unit_id: str, *, verify: bool = True) -> Unit:
        """The unit, with the sha256 of every file compared.

        Args:
            unit_id: see `Identity`.
            verify: read and compare all files now; otherwise each file when it is used.

        Raises:
            LedgerError: it is missing or damaged; the message names the file.
        """
        facts = self._facts(unit_id)

        def read(name: str) -> bytes:
            content = self._storage.read(unit_id, name)
            if content is None or sha256(content) != facts["files"][name]:
                raise damaged(unit_id, name, "missing" if content is None else "its sha256 differs")
            _check_owner(unit_id, name, content)
            return content

        for name in DATA if verify else ():
            read(name)
        return Unit(unit_id, facts, read)

    def names(self) -> list[str]:
        """Ids of the finished units, damaged ones included. Raises UnreachableError."""
        listed = self._storage.all_entries().items()
        return [unit_id for unit_id, files in listed if files is None or FACTS in files]

    def unfinished(self) -> dict[str, int]:
        """Epochs of the newest checkpoint of each interrupted unit, by id. Raises UnreachableError.

        0 for a unit that was interrupted in a stage before its first epoch.
        """
        listed = self._storage.all_entries().items()
        files = {unit_id: names for unit_id, names in listed if names and FACTS not in names}
        return {
            unit_id: max(map(epochs_of, names))
            for unit_id, names in files.items()
            if any(map(is_checkpoint, names))
        }

    def check_writable(self, identity: Identity) -> None:
        """Raise LedgerError if the unit could not be written, as far as it is known before it is trained."""
        self._storage.check_writable(identity.id, (*DATA, FACTS))

    def damage(self, unit_id: str) -> str | None:
        """What is wrong with a unit, read again from storage; None if it is valid."""
        try:
            self.open(unit_id)
        except LedgerError as error:
            return str(error)
        return None

    def write(
        self, identity: Identity, reports: Sequence[EpochReport], result: FoldResult, pairs: Pairs
    ) -> None:
        """Write a finished unit: `unit.json` last, then its checkpoints are removed.

        If two workers trained it, because one that counted as lost was still alive, the first result is kept.

        Raises:
            LedgerError: the storage refuses it.
        """
        if self.find(identity.id):
            self.delete_checkpoints(identity.id)
            return
        content = {
            "curve.parquet": curve_parquet(reports, identity.id),
            "predictions.parquet": predictions_parquet(result, pairs, identity.id),
            "model.safetensors": to_safetensors(result.state, {}, identity.id),
        }
        facts = {
            "format": FORMAT,
            "id": identity.id,
            "identity": asdict(identity),
            "state": "finished",
            "result": {name: _number(getattr(result, name)) for name in FIGURES},
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # of the process
            "environment": _environment(result.state),
            "files": {name: sha256(data) for name, data in content.items()},
        }
        try:
            for name, data in content.items():
                self.place.write(f"{identity.id}/{name}", data)
            self.place.write(f"{identity.id}/{FACTS}", seal(facts))
        except OSError as error:
            raise LedgerError(
                f"unit {identity.id} cannot be written to {self.where}: {one_line(error)}"
            ) from error
        self.delete_checkpoints(identity.id)

    def delete_checkpoints(self, unit_id: str) -> None:
        """Remove the checkpoints of a unit that is finished, or that will not be resumed.

        Raises:
            LedgerError: the storage refuses it.
        """
        try:
            for name in self.place.names(unit_id):
                if is_checkpoint(name):
                    self.place.remove(f"{unit_id}/{name}")
            self.place.remove_drafts(unit_id)
        except OSError as error:
            raise LedgerError(
                f"checkpoints of unit {unit_id} cannot be removed from {self.where}: {one_line(error)}"
            ) from error

    def checkpoints(self, identity: Identity) -> CheckpointStore:
        """Where a fold of this identity loads and saves its checkpoints."""
        return Checkpoints(self.place, identity.id, self.checkpoint_every, self._warn)

    def _facts(self, unit_id: str) -> dict[str, Any]:
        content = self._storage.read(unit_id, FACTS)
        if content is None:
            raise LedgerError(
                f"no unit {unit_id} in {self.where}", remedy="'cgn units' lists the existing ones"
            )
        try:
            facts = unseal(content, READABLE)
        except FormatError as error:
            raise LedgerError(
                f"unit {unit_id} {error}",
                remedy="read it with the version of cgn-platform that wrote it, or a later one",
            ) from None
        except DamagedError as error:
            raise damaged(unit_id, FACTS, str(error)) from None
        _check_identity(unit_id, facts)
        return facts


def _check_identity(unit_id: str, facts: Mapping[str, Any]) -> None:
    """Raise LedgerError if these facts are not those of this unit: its folder was renamed or exchanged."""
    try:
        identity = facts["identity"]
        named, made_from, result_fold = facts["id"], unit_id_of(identity), facts["result"]["fold"]
        complete = set(DATA) <= set(facts["files"]) and result_fold == identity["fold"]
    except (KeyError, TypeError):
        raise damaged(unit_id, FACTS, "it is incomplete") from None
    for other in (named, made_from):
        if other != unit_id:
            raise damaged(unit_id, FACTS, f"it belongs to unit {other}")
    if not complete:
        raise damaged(unit_id, FACTS, "its result is of another fold, or it does not name all files")


def _check_owner(unit_id: str, name: str, content: bytes) -> None:
    """Raise LedgerError if a file whose hash is right was made for another unit."""
    try:
        named = unit_named_in(name, content)
    except (ValueError, KeyError, TypeError, OSError):
        raise damaged(unit_id, name, "it cannot be read") from None
    if named not in (None, unit_id):
        raise damaged(unit_id, name, f"it belongs to unit {named}")


def _environment(state: Mapping[str, Any]) -> dict[str, Any]:
    """What else may change bits: stored, so that a difference can be explained."""
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
