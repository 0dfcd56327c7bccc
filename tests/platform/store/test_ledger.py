"""Finished units: written atomically, found again, never used when damaged."""

import dataclasses
import errno
import json
import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load, save
from typer.testing import CliRunner

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import LedgerError
from cgn.fit import fit, network_of
from cgn.places import Place, shown
from cgn.results import CheckpointStore, FoldRun
from cgn.sealed import seal, sha256, unseal
from cgn_platform.cli.commands import app
from cgn_platform.console.live import make_console
from cgn_platform.console.tables import units_table
from cgn_platform.run.folds import read_or_train
from cgn_platform.store import out_of_fold
from cgn_platform.store.ledger import DATA, Identity, Ledger, unit_id_of
from cgn_platform.store.unit_storage import UnreachableError


def run(folds: FoldRun) -> tuple[list[Any], Any]:
    reports = []
    while True:
        try:
            reports.append(next(folds))
        except StopIteration as end:
            return reports, end.value


def plain(value: Any) -> Any:
    """Reports and results as values that can be compared."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return [repr(v) for v in value.ravel().tolist()]
    if hasattr(value, "items"):
        return {k: plain(v) for k, v in value.items()}
    return value.tolist() if hasattr(value, "tolist") else repr(value)


@pytest.fixture
def config(tiny: Config) -> Config:
    return tiny.edit(epochs=5, bilateral="sbf")


@pytest.fixture
def identity(config: Config, pairs: Pairs) -> Identity:
    return Identity.of(config, 0, splits="s" * 16, cache=pairs.fingerprint)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def ledger(tmp_path: Path, warnings: list[str]) -> Ledger:
    return Ledger(tmp_path / "units", checkpoint_every=2, warn=warnings.append)


class Trainer:
    """`fit` that counts the epochs it trains."""

    def __init__(self, config: Config, pairs: Pairs, split: Split) -> None:
        self.config, self.pairs, self.split = config, pairs, split
        self.loaded: list[int] = []

    def __call__(self, checkpoints: CheckpointStore) -> FoldRun:
        state = checkpoints.load()
        self.loaded.append(len(state.facts["reports"]) if state else 0)
        return fit(self.config, self.pairs, self.split, checkpoints=checkpoints)


@pytest.fixture
def trainer(config: Config, pairs: Pairs, splits: tuple[Split, ...]) -> Trainer:
    return Trainer(config, pairs, splits[0])


def test_a_unit_is_trained_once_and_read_as_it_was_written(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs
) -> None:
    trained = run(read_or_train(ledger, identity, pairs, trainer))
    read = run(read_or_train(ledger, identity, pairs, trainer))
    assert trainer.loaded == [0]
    assert plain(read) == plain(trained)
    unit = ledger.open(identity.id)
    assert unit.identity == identity
    assert unit.predictions["pair_id"].to_pylist() == [f"pair-{i:03d}" for i in range(8)]
    assert unit.predictions["localized"].to_pylist()[0] is None  # benign: no lesion is annotated
    network = network_of(trainer.config, unit.result.state)
    assert sum(p.numel() for p in network.parameters()) > 0
    assert ledger.names() == [identity.id]
    assert ledger.unfinished() == {}
    assert not [path for path in Path(ledger.where).rglob("*") if "at-" in path.name or "tmp" in path.name]


def test_whatever_determines_a_unit_changes_its_id(config: Config, pairs: Pairs, tmp_path: Path) -> None:
    def id_of(edited: Config = config, fold: int = 0, splits: str = "s", cache: str = "c") -> str:
        return Identity.of(edited, fold, splits=splits, cache=cache).id

    weights = tmp_path / "w.pt"
    ids = [id_of(), id_of(fold=1), id_of(splits="t"), id_of(cache="d"), id_of(config.edit(seed=1))]
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        ids.append(id_of(config.edit(backbone_weights=str(weights))))
    assert len(set(ids)) == len(ids)
    assert id_of() == ids[0]
    moved = tmp_path / "moved.pt"
    weights.rename(moved)
    assert id_of(config.edit(backbone_weights=str(moved))) == ids[-1]


def test_fields_that_a_method_does_not_read_do_not_change_the_id(
    monkeypatch: pytest.MonkeyPatch, config: Config
) -> None:
    monkeypatch.setattr(
        "cgn_platform.store.ledger.fields_read", lambda _method: frozenset({"method", "seed"})
    )

    def id_of(edited: Config) -> str:
        return Identity.of(edited, 0, splits="s", cache="c").id

    assert id_of(config) == id_of(config.edit(alpha=0.9, beta=7, bilateral="none"))
    assert id_of(config) != id_of(config.edit(seed=1))


def rewrite_without_unit(path: Path) -> str:
    """Write a file of a unit as earlier versions did; returns its hash."""
    if path.suffix == ".parquet":
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path, compression="zstd")
    else:
        tensors = load(path.read_bytes())
        path.write_bytes(save(tensors, {"facts": "{}"}))
    return sha256(path.read_bytes())


def test_units_of_format_1_are_read_and_not_reused(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs, config: Config
) -> None:
    run(read_or_train(ledger, identity, pairs, trainer))
    unit = ledger.open(identity.id)
    assert unit.outdated is None
    facts = {**unit.facts, "format": 1}
    facts["identity"] = {**facts["identity"], "config": config.model_dump(mode="json")}
    facts["id"] = unit_id_of(facts["identity"])
    folder = Path(ledger.where) / identity.id
    folder = folder.rename(folder.with_name(facts["id"]))
    for name in DATA:  # files of that format do not name their unit
        facts["files"][name] = rewrite_without_unit(folder / name)
    (folder / "unit.json").write_bytes(seal(facts))
    reopened = ledger.open(facts["id"])
    assert reopened.outdated is not None
    assert "format 1" in reopened.outdated
    assert plain(reopened.result) == plain(unit.result)
    console = make_console()
    with console.capture() as capture:
        console.print(units_table([reopened, unit], {}))
    assert "1 can be read but are not reused (format 1" in " ".join(capture.get().split())


def test_units_of_other_training_code_are_outdated(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs
) -> None:
    other = dataclasses.replace(identity, code="0" * 16)
    run(read_or_train(ledger, other, pairs, trainer))
    outdated = ledger.open(other.id).outdated
    assert outdated == f"trained by code {'0' * 16}, the current code is {identity.code}"


def test_an_interrupted_fold_resumes_from_its_checkpoint(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs, tmp_path: Path
) -> None:
    whole = run(read_or_train(Ledger(tmp_path / "other"), identity, pairs, trainer))
    running = read_or_train(ledger, identity, pairs, trainer)
    for _ in range(3):
        next(running)
    running.close()
    assert ledger.find(identity.id) is None
    assert ledger.unfinished() == {identity.id: 2}
    reports, result = run(read_or_train(ledger, identity, pairs, trainer))
    assert trainer.loaded == [0, 0, 2]
    expected, resumed = (
        [{**plain(report), "seconds": 0} for report in (*epochs, end)]
        for epochs, end in (whole, (reports, result))
    )
    assert resumed == expected


FILES = ("unit.json", *DATA)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["bit", "truncated", "missing"])
def test_a_damaged_unit_is_reported_and_computed_again(
    name: str,
    harm: str,
    ledger: Ledger,
    identity: Identity,
    trainer: Trainer,
    pairs: Pairs,
    warnings: list[str],
) -> None:
    before = run(read_or_train(ledger, identity, pairs, trainer))
    path = Path(ledger.where) / identity.id / name
    content = bytearray(path.read_bytes())
    if harm == "bit":
        position = random.Random(name).randrange(len(content))
        content[position] ^= 1 << 4
        path.write_bytes(content)
    elif harm == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    if (name, harm) != ("unit.json", "missing"):  # without it the unit is missing, not damaged
        assert name in str(ledger.damage(identity.id))
        assert ledger.find(identity.id) is None
        assert f"{name} of unit {identity.id} is damaged" in warnings[0]
        with pytest.raises(LedgerError, match="is damaged"):
            ledger.open(identity.id)
    after = run(read_or_train(ledger, identity, pairs, trainer))
    assert trainer.loaded == [0, 0]
    assert [report.val_auc for report in after[0]] == [report.val_auc for report in before[0]]
    assert ledger.damage(identity.id) is None


@pytest.fixture
def other(config: Config, pairs: Pairs) -> Identity:
    """Another seed of the same fold."""
    return Identity.of(config.edit(seed=1), 0, splits="s" * 16, cache=pairs.fingerprint)


@pytest.fixture
def two(
    ledger: Ledger, identity: Identity, other: Identity, trainer: Trainer, pairs: Pairs, splits: Any
) -> tuple[Path, Path]:
    """The folders of two finished units, of `identity` and of `other`."""
    run(read_or_train(ledger, identity, pairs, trainer))
    run(read_or_train(ledger, other, pairs, Trainer(trainer.config.edit(seed=1), pairs, splits[0])))
    return Path(ledger.where) / identity.id, Path(ledger.where) / other.id


def test_units_in_exchanged_folders_are_reported_and_computed_again(
    two: tuple[Path, Path],
    ledger: Ledger,
    identity: Identity,
    other: Identity,
    trainer: Trainer,
    pairs: Pairs,
) -> None:
    before = plain(ledger.open(identity.id).result)
    one, second = two
    one.rename(one.with_name("aside"))
    second.rename(one)
    one.with_name("aside").rename(second)
    foreign = f"unit.json of unit {identity.id} is damaged (it belongs to unit {other.id})"
    assert foreign in str(ledger.damage(identity.id))
    with pytest.raises(LedgerError, match="it belongs to unit"):
        ledger.open(identity.id, verify=False)  # as `cgn units` opens it
    assert out_of_fold.read(ledger, [[identity.id]]) is None  # in tables and sweeps: INCOMPLETE
    verified = CliRunner().invoke(app, ["units", "--verify", "--ledger", ledger.where])
    assert "0 of 2 units are undamaged" in verified.output
    assert foreign in str(verified.exception)
    after = run(read_or_train(ledger, identity, pairs, trainer))[1]
    assert {**plain(after), "seconds": 0} == {**before, "seconds": 0}
    assert ledger.damage(identity.id) is None


@pytest.mark.parametrize("name", DATA)
def test_a_file_of_another_unit_is_damage_even_if_its_hash_is_recorded(
    two: tuple[Path, Path], name: str, ledger: Ledger, identity: Identity, other: Identity
) -> None:
    mine, theirs = two
    (mine / name).write_bytes((theirs / name).read_bytes())
    facts = unseal((mine / "unit.json").read_bytes(), [2])
    facts["files"][name] = sha256((theirs / name).read_bytes())
    (mine / "unit.json").write_bytes(seal(facts))
    damage = f"{name} of unit {identity.id} is damaged (it belongs to unit {other.id})"
    assert damage in str(ledger.damage(identity.id))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda facts: facts["identity"].update(code="0" * 16), "it belongs to unit "),
        (lambda facts: facts["identity"].update(fold=1), "it belongs to unit "),
        (lambda facts: facts.update(id="f" * 24), f"it belongs to unit {'f' * 24}"),
        (lambda facts: facts["result"].update(fold=1), "its result is of another fold"),
        (lambda facts: facts["files"].pop("model.safetensors"), "it does not name all files"),
        (lambda facts: facts.pop("identity"), "it is incomplete"),
    ],
)
def test_facts_that_are_not_those_of_the_unit_are_damage(
    change: Any, reason: str, ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs
) -> None:
    run(read_or_train(ledger, identity, pairs, trainer))
    path = Path(ledger.where) / identity.id / "unit.json"
    facts = unseal(path.read_bytes(), [2])
    change(facts)
    path.write_bytes(seal(facts))
    assert reason in str(ledger.damage(identity.id))


def test_a_checkpoint_of_another_unit_is_never_loaded(
    ledger: Ledger, identity: Identity, other: Identity, trainer: Trainer, pairs: Pairs, warnings: list[str]
) -> None:
    running = read_or_train(ledger, identity, pairs, trainer)
    for _ in range(5):
        next(running)
    running.close()
    folder = Path(ledger.where) / identity.id
    folder.rename(folder.with_name(other.id))
    assert ledger.checkpoints(other).load() is None
    assert "at-00004-" in warnings[0]
    assert f"of unit {other.id} is damaged or of another unit" in warnings[0]


def replace_by(path: Path, harm: str) -> None:
    """What lies in place of a file: a folder, or a link that leads nowhere."""
    path.unlink()
    if harm == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if harm == "loop" else path.parent / "nowhere")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["folder", "link", "loop"])
def test_what_lies_in_place_of_a_file_is_named_like_other_damage(
    name: str,
    harm: str,
    ledger: Ledger,
    identity: Identity,
    trainer: Trainer,
    pairs: Pairs,
    warnings: list[str],
) -> None:
    run(read_or_train(ledger, identity, pairs, trainer))
    replace_by(Path(ledger.where) / identity.id / name, harm)
    assert ledger.names() == [identity.id]
    assert ledger.unfinished() == {}
    assert f"{name} of unit {identity.id} is damaged" in str(ledger.damage(identity.id))
    assert ledger.find(identity.id) is None
    assert f"{name} of unit {identity.id} is damaged" in warnings[0]
    if harm == "folder":  # nobody's folder is removed: it is refused before an epoch is trained
        with pytest.raises(LedgerError, match=rf"cannot be written: .*{name} is a folder: move it away"):
            next(read_or_train(ledger, identity, pairs, trainer))
        (Path(ledger.where) / identity.id / name).rmdir()
    run(read_or_train(ledger, identity, pairs, trainer))
    assert trainer.loaded == [0, 0]
    assert ledger.damage(identity.id) is None


def test_a_linked_file_is_as_good_as_a_file(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs, tmp_path: Path
) -> None:
    run(read_or_train(ledger, identity, pairs, trainer))
    for name in FILES:
        path = Path(ledger.where) / identity.id / name
        path.rename(tmp_path / name)
        path.symlink_to(tmp_path / name)
    assert ledger.names() == [identity.id]
    assert ledger.find(identity.id) is not None


@pytest.mark.parametrize("harm", ["file", "link"])
def test_what_lies_in_place_of_a_units_folder_is_refused_before_training(
    harm: str, ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs
) -> None:
    folder = Path(ledger.where) / identity.id
    folder.parent.mkdir()
    folder.touch() if harm == "file" else folder.symlink_to("nowhere")
    assert ledger.names() == []
    with pytest.raises(LedgerError, match=rf"unit {identity.id} cannot be written: .*move it away"):
        next(read_or_train(ledger, identity, pairs, trainer))
    assert trainer.loaded == []


def refusing(number: int) -> Any:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_unit_without_rights_is_damaged(
    ledger: Ledger,
    identity: Identity,
    trainer: Trainer,
    pairs: Pairs,
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(read_or_train(ledger, identity, pairs, trainer))
    monkeypatch.setattr(Place, "entries", refusing(errno.EACCES))
    assert ledger.names() == [identity.id]
    assert ledger.unfinished() == {}
    assert ledger.find(identity.id) is None
    assert warnings == [
        f"the folder of unit {identity.id} is damaged (Permission denied): correct its rights or move it "
        "away; the unit is computed again when a run needs it"
    ]
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(LedgerError, match=r"no right to read and write .*correct its rights"):
        next(read_or_train(ledger, identity, pairs, trainer))
    assert trainer.loaded == [0]


@pytest.mark.parametrize("method", ["read", "entries", "folders"])
def test_an_outage_is_not_damage(
    method: str,
    ledger: Ledger,
    identity: Identity,
    trainer: Trainer,
    pairs: Pairs,
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Units of a share that does not answer are not computed again."""
    run(read_or_train(ledger, identity, pairs, trainer))
    monkeypatch.setattr(Place, method, refusing(errno.ESTALE))
    with pytest.raises(UnreachableError, match=r"cannot be read \(Stale file handle\): make its storage"):
        ledger.names() if method == "folders" else ledger.find(identity.id)
    assert warnings == []


@pytest.mark.parametrize("harm", ["bit", "truncated"])
def test_a_damaged_checkpoint_is_never_loaded(
    harm: str, ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs, warnings: list[str]
) -> None:
    running = read_or_train(ledger, identity, pairs, trainer)
    for _ in range(5):
        next(running)
    running.close()
    (path,) = (Path(ledger.where) / identity.id).glob("at-00004-*")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content if harm == "bit" else content[:-100])
    assert ledger.checkpoints(identity).load() is None
    assert "at-00004" in warnings[0]


def test_a_full_storage_is_reported_and_no_file_is_half_written(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs, warnings: list[str], monkeypatch: Any
) -> None:
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LedgerError, match=rf"unit {identity.id} cannot be written .*No space left"):
        run(read_or_train(ledger, identity, pairs, trainer))
    assert "a checkpoint" in warnings[0]
    assert not [path for path in Path(ledger.where).rglob("*") if path.is_file()]


def test_a_checkpoint_that_cannot_replace_older_ones_does_not_stop_training(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs, warnings: list[str], monkeypatch: Any
) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Place, "remove", denied)
        running = read_or_train(ledger, identity, pairs, trainer)
        for _ in range(5):
            next(running)
    running.close()
    assert "a checkpoint" in warnings[0]
    assert "Permission denied" in warnings[0]
    assert ledger.unfinished() == {identity.id: 4}


def test_the_first_of_two_equal_units_is_kept(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs
) -> None:
    """A worker that counted as lost may still finish, after the one that replaced it."""
    slow = read_or_train(ledger, identity, pairs, trainer)
    next(slow)
    run(read_or_train(ledger, identity, pairs, trainer))
    folder = Path(ledger.where) / identity.id
    first = {path: path.read_bytes() for path in folder.iterdir()}
    run(slow)
    assert {path: path.read_bytes() for path in folder.iterdir()} == first


def test_files_of_a_killed_worker_are_removed_when_its_unit_is_finished(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs
) -> None:
    """A draft; and a checkpoint, if the worker was killed right after its result was written."""
    folder = Path(ledger.where) / identity.id
    folder.mkdir(parents=True)
    (folder / ".at-00002-5eed.1234abcd.tmp").write_bytes(b"half")
    (folder / ".at-00002-5eed.1234abce.tmp").mkdir()
    trained = run(read_or_train(ledger, identity, pairs, trainer))
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    (folder / f"at-00004-{'5eed' * 16}.safetensors").write_bytes(b"")
    assert plain(run(read_or_train(ledger, identity, pairs, trainer))) == plain(trained)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_a_missing_unit_is_an_error_in_one_line(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match=r"no unit abc in .*'cgn units' lists"):
        ledger.open("abc")
    assert ledger.find("abc") is None


def test_a_ledger_that_cannot_be_opened_is_named_without_its_secrets() -> None:
    assert shown("s3://key:secret@lab/units?access_key=x") == "s3://lab/units"
    with pytest.raises(LedgerError, match="no ledger can be kept at ftp://lab/units: ") as error:
        Ledger("ftp://key:secret@lab/units")
    assert "key:" not in str(error.value).partition(": ")[0]


def test_a_pickled_ledger_is_opened_again_at_its_address(ledger: Ledger) -> None:
    copied = pickle.loads(pickle.dumps(ledger))  # noqa: S301
    assert (copied.where, copied.checkpoint_every) == (ledger.where, 2)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3-compatible server on loopback, and the address of a bucket in it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield (
        f"s3://lab/units?scheme=http&endpoint_override={host}:{port}"
        "&region=us-east-1&allow_bucket_creation=true"
    )
    server.stop()


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_bucket_holds_units_as_a_folder_does(
    bucket: str, identity: Identity, trainer: Trainer, pairs: Pairs, warnings: list[str]
) -> None:
    ledger = Ledger(bucket, checkpoint_every=2, warn=warnings.append)
    assert ledger.names() == []
    running = read_or_train(ledger, identity, pairs, trainer)
    for _ in range(3):
        next(running)
    running.close()
    assert ledger.unfinished() == {identity.id: 2}
    trained = run(read_or_train(ledger, identity, pairs, trainer))
    assert trainer.loaded == [0, 2]
    assert ledger.names() == [identity.id]
    assert plain(run(read_or_train(ledger, identity, pairs, trainer))) == plain(trained)
    assert json.dumps(ledger.open(identity.id).facts["result"])
    assert ledger.damage(identity.id) is None
    assert warnings == []
