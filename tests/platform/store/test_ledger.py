"""Finished units: written whole, found again, never trusted when damaged."""

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import LedgerError
from cgn.fit import fit, network_of
from cgn.places import shown
from cgn.results import FoldRun
from cgn_platform.console.live import make_console
from cgn_platform.console.tables import units_table
from cgn_platform.run.folds import read_or_train
from cgn_platform.store.ledger import Identity, Ledger


def run(folds: FoldRun) -> tuple[list[Any], Any]:
    reports = []
    while True:
        try:
            reports.append(next(folds))
        except StopIteration as end:
            return reports, end.value


def plain(value: Any) -> Any:
    """What was told, as values that compare."""
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
def said() -> list[str]:
    return []


@pytest.fixture
def ledger(tmp_path: Path, said: list[str]) -> Ledger:
    return Ledger(tmp_path / "units", checkpoint_every=2, warn=said.append)


class Trainer:
    """`fit` that counts the epochs it trains."""

    def __init__(self, config: Config, pairs: Pairs, split: Split) -> None:
        self.config, self.pairs, self.split = config, pairs, split
        self.loaded: list[int] = []

    def __call__(self, memory: Any) -> FoldRun:
        state = memory.load()
        self.loaded.append(len(state.facts["reports"]) if state else 0)
        return fit(self.config, self.pairs, self.split, checkpoints=memory)


@pytest.fixture
def trainer(config: Config, pairs: Pairs, splits: tuple[Split, ...]) -> Trainer:
    return Trainer(config, pairs, splits[0])


def test_a_unit_is_trained_once_and_read_as_it_was_told(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs
) -> None:
    told = run(read_or_train(ledger, identity, pairs, trainer))
    again = run(read_or_train(ledger, identity, pairs, trainer))
    assert trainer.loaded == [0]
    assert plain(again) == plain(told)
    unit = ledger.open(identity.id)
    assert unit.identity == identity
    assert unit.predictions["pair_id"].to_pylist() == [f"pair-{i:03d}" for i in range(8)]
    assert unit.predictions["localized"].to_pylist()[0] is None  # benign: no lesion is marked
    network = network_of(trainer.config, unit.result.state)
    assert sum(p.numel() for p in network.parameters()) > 0
    assert ledger.names() == [identity.id]
    assert ledger.unfinished() == {}
    assert not [path for path in Path(ledger.where).rglob("*") if "at-" in path.name or "tmp" in path.name]


def test_what_makes_a_unit_names_it(config: Config, pairs: Pairs, tmp_path: Path) -> None:
    def name(of: Config = config, fold: int = 0, splits: str = "s", cache: str = "c") -> str:
        return Identity.of(of, fold, splits=splits, cache=cache).id

    weights = tmp_path / "w.pt"
    names = [name(), name(fold=1), name(splits="t"), name(cache="d"), name(config.edit(seed=1))]
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        names.append(name(config.edit(backbone_weights=str(weights))))
    assert len(set(names)) == len(names)
    assert name() == names[0]
    elsewhere = tmp_path / "moved.pt"
    weights.rename(elsewhere)
    assert name(config.edit(backbone_weights=str(elsewhere))) == names[-1]


def test_fields_that_a_method_does_not_read_name_no_unit(
    monkeypatch: pytest.MonkeyPatch, config: Config
) -> None:
    """House A3: `alpha` made units of a method that never looks at it."""
    monkeypatch.setattr("cgn_platform.ledger.fields_read", lambda _method: frozenset({"method", "seed"}))

    def name(of: Config) -> str:
        return Identity.of(of, 0, splits="s", cache="c").id

    assert name(config) == name(config.edit(alpha=0.9, beta=7, bilateral="none"))
    assert name(config) != name(config.edit(seed=1))


def test_units_of_format_1_are_read_and_not_reused(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs, config: Config
) -> None:
    run(read_or_train(ledger, identity, pairs, trainer))
    unit = ledger.open(identity.id)
    assert unit.outdated is None
    path = Path(ledger.where) / identity.id / "unit.json"
    facts = json.loads(path.read_text())
    del facts["sha256"]
    old = {**facts, "format": 1, "identity": {**facts["identity"], "config": config.model_dump(mode="json")}}
    digest = hashlib.sha256(json.dumps(old, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    path.write_text(json.dumps(old | {"sha256": digest}))
    again = ledger.open(identity.id)
    assert again.outdated is not None
    assert "format 1" in again.outdated
    assert again.result.test_auc == unit.result.test_auc
    console = make_console()
    with console.capture() as capture:
        console.print(units_table([again, unit], {}))
    assert "1 can be read but are not reused (format 1" in " ".join(capture.get().split())


def test_units_of_other_training_code_say_so(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs
) -> None:
    other = dataclasses.replace(identity, code="0" * 16)
    run(read_or_train(ledger, other, pairs, trainer))
    outdated = ledger.open(other.id).outdated
    assert outdated == f"trained by code {'0' * 16}, today's is {identity.code}"


def test_a_fold_that_was_cut_short_costs_at_most_the_epochs_since_its_checkpoint(
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
    timeless = [[{**plain(r), "seconds": 0} for r in (*of, end)] for of, end in (whole, (reports, result))]
    assert timeless[0] == timeless[1]


FILES = ("unit.json", "curve.parquet", "predictions.parquet", "model.safetensors")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["bit", "truncated", "missing"])
def test_a_damaged_unit_is_named_and_computed_anew(
    name: str, harm: str, ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs, said: list[str]
) -> None:
    told = run(read_or_train(ledger, identity, pairs, trainer))
    path = Path(ledger.where) / identity.id / name
    content = bytearray(path.read_bytes())
    if harm == "bit":
        at = random.Random(name).randrange(len(content))
        content[at] ^= 1 << 4
        path.write_bytes(content)
    elif harm == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    if (name, harm) != ("unit.json", "missing"):  # without it the unit is not there, rather than damaged
        assert name in str(ledger.damage(identity.id))
        assert ledger.find(identity.id) is None
        assert f"{name} of unit {identity.id} is damaged" in said[0]
        with pytest.raises(LedgerError, match="is damaged"):
            ledger.open(identity.id)
    anew = run(read_or_train(ledger, identity, pairs, trainer))
    assert trainer.loaded == [0, 0]
    assert [r.val_auc for r in anew[0]] == [r.val_auc for r in told[0]]
    assert ledger.damage(identity.id) is None


@pytest.mark.parametrize("harm", ["bit", "truncated"])
def test_a_damaged_checkpoint_is_never_trained_on(
    harm: str, ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs, said: list[str]
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
    assert "at-00004" in said[0]


def test_storage_that_takes_no_more_is_said_and_leaves_nothing_half_written(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs, said: list[str], monkeypatch: Any
) -> None:
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LedgerError, match=rf"unit {identity.id} cannot be written .*No space left"):
        run(read_or_train(ledger, identity, pairs, trainer))
    assert "a checkpoint" in said[0]
    assert not [path for path in Path(ledger.where).rglob("*") if path.is_file()]


def test_the_first_of_two_equal_units_stands(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs
) -> None:
    """A worker that was given up may still finish, after the one that took its place."""
    slow = read_or_train(ledger, identity, pairs, trainer)
    next(slow)
    run(read_or_train(ledger, identity, pairs, trainer))
    folder = Path(ledger.where) / identity.id
    stood = {path: path.read_bytes() for path in folder.iterdir()}
    run(slow)
    assert {path: path.read_bytes() for path in folder.iterdir()} == stood


def test_what_a_killed_worker_left_goes_with_the_end_of_its_unit(
    ledger: Ledger, identity: Identity, trainer: Trainer, pairs: Pairs
) -> None:
    """Half of a file; and a checkpoint, where it was killed right after its result was written."""
    folder = Path(ledger.where) / identity.id
    folder.mkdir(parents=True)
    (folder / ".at-00002-5eed.1234abcd.tmp").write_bytes(b"half")
    told = run(read_or_train(ledger, identity, pairs, trainer))
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    (folder / f"at-00004-{'5eed' * 16}.safetensors").write_bytes(b"")
    assert plain(run(read_or_train(ledger, identity, pairs, trainer))) == plain(told)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_a_unit_that_is_not_there_is_one_line(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match=r"no unit abc in .*'cgn units' lists"):
        ledger.open("abc")
    assert ledger.find("abc") is None


def test_an_address_is_shown_without_its_secrets() -> None:
    assert shown("s3://key:secret@lab/units?access_key=x") == "s3://lab/units"
    assert shown("/data/units") == "/data/units"


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
def test_a_bucket_keeps_units_as_a_folder_does(
    bucket: str, identity: Identity, trainer: Trainer, pairs: Pairs, said: list[str]
) -> None:
    ledger = Ledger(bucket, checkpoint_every=2, warn=said.append)
    assert ledger.names() == []
    running = read_or_train(ledger, identity, pairs, trainer)
    for _ in range(3):
        next(running)
    running.close()
    assert ledger.unfinished() == {identity.id: 2}
    told = run(read_or_train(ledger, identity, pairs, trainer))
    assert trainer.loaded == [0, 2]
    assert ledger.names() == [identity.id]
    assert plain(run(read_or_train(ledger, identity, pairs, trainer))) == plain(told)
    assert json.dumps(ledger.open(identity.id).facts["result"])
    assert ledger.damage(identity.id) is None
    assert said == []
