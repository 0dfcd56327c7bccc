"""Workers without Ray: what they refuse, and which errors they raise."""

from collections.abc import Sequence
from typing import Any

import pytest

import cgn.images
from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ClusterError
from cgn.results import FoldResult
from cgn_platform.run.site import TrainingSpec
from cgn_platform.run.worker import INFRASTRUCTURE, FoldActor, Trainer, WorkerError
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger


@pytest.fixture
def spec(store: Store, pairs: Pairs, splits: Sequence[Split], simulate: Any) -> TrainingSpec:
    return TrainingSpec(pairs, tuple(splits), Ledger(store.units), runner=simulate)


def test_an_actor_trains_its_folds_epoch_by_epoch(spec: TrainingSpec) -> None:
    actor, config = FoldActor(spec), Config(epochs=2, beta=0.1)
    actor.begin(config, 0)
    actor.begin(config, 2)
    answers = [actor.advance(number) for number in (0, 2, 0, 2, 0)]
    assert [answer.fold for answer in answers] == [0, 2, 0, 2, 0]
    assert isinstance(answers[-1], FoldResult)
    assert answers[-1].state == {}  # the network is in the ledger
    assert spec.ledger.names() == [spec.identity(config, spec.splits[0]).id]


def test_other_code_is_refused_by_each_call(store: Store, spec: TrainingSpec) -> None:
    """A caller that does not wait for `begin` gets the error from `advance`."""
    actor = FoldActor(TrainingSpec(spec.pairs, spec.splits, spec.ledger, runner=spec.runner, code="another"))
    with pytest.raises(ClusterError, match="the driver's code of cgn"):
        actor.begin(Config(epochs=1), 0)
    with pytest.raises(ClusterError, match="the driver's code of cgn"):
        actor.advance(0)
    assert not store.units.exists()


def test_a_device_that_is_full_is_no_error_of_the_configuration(
    store: Store, pairs: Pairs, splits: Sequence[Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(cgn.images, "Images", full)
    trainer = Trainer(TrainingSpec(pairs, tuple(splits), Ledger(store.units)))
    with pytest.raises(WorkerError, match="RuntimeError: CUDA out of memory") as raised:
        trainer.start()
    assert isinstance(raised.value, INFRASTRUCTURE)
