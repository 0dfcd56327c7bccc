"""A fold is read from the ledger if it is there, and trained and written if it is not."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.results import FoldState, last
from cgn_platform.run.folds import read_or_train
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Identity, Ledger

CONFIG = Config(epochs=4, beta=0.1)
IDENTITY = Identity.of(CONFIG, 0, splits="splits", cache="cache")


def test_a_fold_is_trained_once(store: Store, pairs: Pairs, splits: Sequence[Split], simulate: Any) -> None:
    ledger, trained = Ledger(store.units, checkpoint_every=1), []

    def train(checkpoints: Any) -> Iterator[Any]:
        trained.append(checkpoints)
        return simulate(CONFIG, pairs, splits[0], "cpu", checkpoints)

    first = list(read_or_train(ledger, IDENTITY, pairs, train))
    assert ledger.names() == [IDENTITY.id]
    second = list(read_or_train(ledger, IDENTITY, pairs, train))
    assert len(trained) == 1
    assert [report.val_auc for report in second] == [report.val_auc for report in first]
    result = last(read_or_train(ledger, IDENTITY, pairs, train))
    assert result.val_auc == first[-1].val_auc


def test_a_fold_that_is_stopped_is_no_unit_and_keeps_its_checkpoints(
    store: Store, pairs: Pairs, splits: Sequence[Split], simulate: Any
) -> None:
    ledger = Ledger(store.units, checkpoint_every=1)
    run = read_or_train(
        ledger, IDENTITY, pairs, lambda checkpoints: simulate(CONFIG, pairs, splits[0], "cpu", checkpoints)
    )
    next(run)
    next(run)
    run.close()
    assert ledger.names() == []
    assert ledger.unfinished() == {IDENTITY.id: 2}


def test_checkpoints_that_a_killed_writer_left_are_deleted(
    store: Store, pairs: Pairs, splits: Sequence[Split], simulate: Any
) -> None:
    ledger = Ledger(store.units)
    train = lambda checkpoints: simulate(CONFIG, pairs, splits[0], "cpu", checkpoints)  # noqa: E731
    last(read_or_train(ledger, IDENTITY, pairs, train))
    ledger.checkpoints(IDENTITY).save(FoldState({}, {"epoch": 3, "reports": [0.5]}))
    before = {path.name for path in (store.units / IDENTITY.id).iterdir()}
    last(read_or_train(ledger, IDENTITY, pairs, pytest.fail))
    after = {path.name for path in (store.units / IDENTITY.id).iterdir()}
    assert len(before - after) == 1
    assert ledger.damage(IDENTITY.id) is None
