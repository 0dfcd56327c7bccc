"""`cgn train`: folds in lockstep in this process, through the ledger."""

from collections.abc import Sequence
from typing import Any

import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.fit import cross_validate
from cgn.images import Images
from cgn.results import last
from cgn_platform.run import train as module
from cgn_platform.run.train import snapshots_of, train
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


def test_a_pictured_fold_is_stored_and_is_not_trained_again(
    store: Store, tiny: Config, pairs: Pairs, splits: Sequence[Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, images, config = Ledger(store.units), Images(pairs, "cpu"), tiny.edit(epochs=4)
    expected: Any = last(cross_validate(config, pairs, splits[:1]))
    snapshots = snapshots_of(config, images, splits[0])
    result: Any = last(train(config, images, splits, splits[:1], ledger=ledger, snapshots=snapshots))
    assert result.folds[0].test_auc == expected.folds[0].test_auc
    assert len(ledger.names()) == 1
    drawn = snapshots.figures(result.folds[0])
    assert set(drawn) == {"fig4", "fig5", "fig6"}
    titles = [axes.get_title() for axes in drawn["fig6"].axes]
    shown = {f"epoch {n}" for n in (1, 2, 3, result.folds[0].best_epoch + 1)}
    assert {title for title in titles if title.startswith("epoch")} == shown

    monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = snapshots_of(config, images, splits[0])
    result = last(train(config, images, splits, splits[:1], ledger=ledger, snapshots=again))
    assert set(again.figures(result.folds[0])) == {"fig4", "fig5"}
    assert not again.trained
