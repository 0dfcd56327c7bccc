"""Checkpoints of stages and epochs of one fold; kills and damage are tests of the ledger."""

from pathlib import Path

import pytest
import torch

from cgn.places import Place
from cgn.results import FoldState
from cgn_platform.store.checkpoints import Checkpoints, epochs_of, is_checkpoint
from cgn_platform.store.ledger import Ledger

UNIT = "0123456789abcdef01234567"


def stage(done: int) -> FoldState:
    return FoldState({"x": torch.full((2,), float(done))}, {"stage": "gan", "step": done, "done": done})


def epochs(count: int) -> FoldState:
    return FoldState({"x": torch.zeros(2)}, {"reports": [{"epoch": n} for n in range(count)]})


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, warnings: list[str]) -> Checkpoints:
    return Checkpoints(Place(str(tmp_path)), UNIT, 1, warnings.append)


def names(checkpoints: Checkpoints) -> list[str]:
    return [name.rpartition("-")[0] for name in sorted(checkpoints.place.names(UNIT))]


def test_a_later_checkpoint_replaces_the_earlier_ones_across_stages_and_epochs(checkpoints: Checkpoints):
    for state, name in ((stage(4), "before-0000004"), (stage(12), "before-0000012"), (epochs(1), "at-00001")):
        checkpoints.save(state)
        assert names(checkpoints) == [name]
        loaded = checkpoints.load()
        assert loaded is not None
        assert loaded.facts == state.facts
        assert torch.equal(loaded.tensors["x"], state.tensors["x"])


def test_a_damaged_checkpoint_of_an_epoch_leaves_that_of_the_stage(
    checkpoints: Checkpoints, tmp_path: Path, warnings: list[str]
):
    checkpoints.save(stage(4))
    kept = {path.name: path.read_bytes() for path in (tmp_path / UNIT).iterdir()}
    checkpoints.save(epochs(1))
    (newest,) = (tmp_path / UNIT).iterdir()
    newest.write_bytes(newest.read_bytes()[:-3])
    for name, content in kept.items():
        (tmp_path / UNIT / name).write_bytes(content)
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.epochs == 0
    assert loaded.facts["done"] == 4
    assert "is damaged" in warnings[0]


def test_a_unit_that_was_interrupted_in_a_stage_is_listed_and_can_be_cleared(
    checkpoints: Checkpoints, tmp_path: Path
):
    checkpoints.save(stage(4))
    ledger = Ledger(tmp_path)
    assert ledger.unfinished() == {UNIT: 0}
    ledger.delete_checkpoints(UNIT)
    assert ledger.unfinished() == {}


def test_other_files_are_no_checkpoints():
    for name in ("unit.json", "at-x-0", "before-", "atlas-00001"):
        assert not is_checkpoint(name)
        assert epochs_of(name) == 0
