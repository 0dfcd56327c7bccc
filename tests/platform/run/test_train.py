"""`cgn train`: folds in lockstep in this process, through the ledger."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.fit import Images, cross_validate
from cgn.results import last
from cgn_platform.run.train import PICTURED, snapshots_of, train
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger


def test_finished_folds_are_read_and_the_numbers_are_those_of_cross_validate(
    store: Store, tiny: Config, pairs: Pairs, splits: Sequence[Split]
) -> None:
    ledger, images = Ledger(store.units), Images(pairs, "cpu")
    expected: Any = last(cross_validate(tiny, pairs, splits))
    last(train(tiny, images, splits, splits[1:2], ledger=ledger))
    (unit,) = ledger.names()
    written = (store.units / unit / "unit.json").stat().st_mtime_ns
    result: Any = last(train(tiny, images, splits, splits, ledger=ledger))
    assert [fold.test_auc for fold in result.folds] == [fold.test_auc for fold in expected.folds]
    assert len(ledger.names()) == 3
    assert (store.units / unit / "unit.json").stat().st_mtime_ns == written


def test_pictured_pairs_are_spread_over_the_test_fold(
    store: Store, tiny: Config, pairs: Pairs, splits: Sequence[Split]
) -> None:
    snapshots = snapshots_of(tiny, Images(pairs, "cpu"), splits[0])
    last(
        train(tiny, Images(pairs, "cpu"), splits, splits[:1], ledger=Ledger(store.units), snapshots=snapshots)
    )
    assert Ledger(store.units).names() == []  # the pictured fold is not stored
    assert len(np.unique(splits[0].test)) >= PICTURED
