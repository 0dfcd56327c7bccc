"""What `cgn.fit` gives for every method: repeatable, resumable, restorable, and learning."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from cgn import plugins
from cgn.config import Config
from cgn.data.pairs import Films, Pairs, Split
from cgn.fit import fit, network_of, predict
from cgn.images import Images, inputs_of
from cgn.metrics import best_iou
from cgn.results import EpochReport, FoldResult, FoldState

METHODS = plugins.names("cgn.methods")
CASES = [
    pytest.param(method, variant, id=" ".join((method, *map(str, variant.values()))))
    for method in METHODS
    for variant in plugins.load("cgn.methods", method).VARIANTS
]
every_variant = pytest.mark.parametrize(("method", "variant"), CASES)


def with_healthy(pairs: Pairs) -> Pairs:
    """The same pairs and healthy films of the same women: their other breasts."""
    n = len(pairs)
    films = Films(
        film_id=np.array([f"film-{i}" for i in range(n)]),
        patient_id=pairs.patient_id,
        view=pairs.view,
        side=pairs.side,
        no_finding=np.arange(n) % 3 > 0,
        no_cohort_finding=np.ones(n, bool),
        image=pairs.reference,
    )
    return dataclasses.replace(pairs, healthy=films)


@pytest.fixture(scope="module")
def pairs(pairs: Pairs) -> Pairs:
    return with_healthy(pairs)


class Checkpoints:
    """Keeps checkpoints as a ledger does: tensors are copied, facts are converted to JSON and back."""

    def __init__(self, *states: FoldState, every: float = 1) -> None:
        self.states, self.checkpoint_every = list(states), every

    def load(self) -> FoldState | None:
        return self.states[-1] if self.states else None

    def save(self, state: FoldState) -> None:
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        self.states.append(FoldState(tensors, json.loads(json.dumps(state.facts))))


def configure(method: str, tiny: Config, **edits: Any) -> Config:
    required = getattr(plugins.load("cgn.methods", method), "REQUIRES", {})
    return tiny.edit(method=method, **{**edits, **required})


def train(
    config: Config, pairs: Pairs, split: Split, checkpoints: Checkpoints | None = None
) -> tuple[list[EpochReport], FoldResult]:
    run, reports = fit(config, pairs, split, checkpoints=checkpoints), []
    while True:
        try:
            reports.append(next(run))
        except StopIteration as end:
            return reports, end.value


def assert_same(first: tuple[list[EpochReport], FoldResult], second: tuple[list[EpochReport], FoldResult]):
    for a, b in zip(first[0], second[0], strict=True):
        assert a.losses == b.losses
        assert a.val_scores.tobytes() == b.val_scores.tobytes()
    p, q = first[1].predictions, second[1].predictions
    assert p.p_malignant.tobytes() == q.p_malignant.tobytes()
    assert p.box.tobytes() == q.box.tobytes()
    assert first[1].state.keys() == second[1].state.keys()
    assert all(torch.equal(first[1].state[name], second[1].state[name]) for name in first[1].state)


@every_variant
def test_a_fold_repeats_resumes_and_is_restored_to_the_bit(method, variant, tiny, pairs, splits):
    """Dropout and noise included: each step has a seed of its own."""
    config = configure(method, tiny.edit(epochs=3), **variant)
    checkpoints = Checkpoints()
    straight = train(config, pairs, splits[0], checkpoints)
    assert all(np.isfinite(list(report.losses.values())).all() for report in straight[0])
    torch.rand(5)  # the global generator has no influence
    for number in range(len(checkpoints.states)):
        assert_same(straight, train(config, pairs, splits[0], Checkpoints(*checkpoints.states[: number + 1])))
    result = straight[1]
    network = network_of(config, result.state)
    images = inputs_of(network, Images(pairs))
    p = predict(network, images, splits[0].test).p_malignant.double().numpy()
    np.testing.assert_allclose(p, result.predictions.p_malignant, rtol=1e-5)


@every_variant
def test_the_global_generator_is_left_as_it_was(method, variant, tiny, pairs, splits):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(configure(method, tiny.edit(epochs=1), **variant), pairs, splits[0])
    assert torch.equal(torch.rand(4), expected)


@every_variant
def test_only_a_bilateral_method_reads_the_other_breast(method, variant, tiny, pairs, splits):
    config = configure(method, tiny.edit(epochs=1), **variant)
    network = network_of(config, train(config, pairs, splits[0])[1].state)
    batch = Images(pairs).batch(torch.arange(8), other=network.needs_other)
    changed = batch._replace(reference=1 - batch.reference)
    if batch.other_reference is not None:
        changed = changed._replace(other_reference=1 - batch.other_reference)
    same = torch.equal(network.predict(batch).p_malignant, network.predict(changed).p_malignant)
    assert same != network.needs_reference


LEARNS: dict[str, dict[str, Any]] = {
    "vanilla": {"options.head": "gap"},
    "zhu": {},
    "abn": {},
    "wu": {},
    "crossview": {},
    "disasym": {},
    "asym": {},
    "logistic": {"options.c": 1.0},
    "forest": {},
}


@pytest.mark.integration
@pytest.mark.parametrize("method", LEARNS)
def test_it_learns_squares_and_where_they_are(method, tiny, pairs, splits):
    edits = {"epochs": 25, "learning_rate": 3e-3} | LEARNS[method]
    result = train(configure(method, tiny, **edits), pairs, splits[0])[1]
    assert result.test_auc > 0.9
    found = [
        best_iou(tuple(box), pairs.boxes[row])
        for box, row, y in zip(
            result.predictions.box, result.predictions.index, result.predictions.label, strict=True
        )
        if y
    ]
    assert np.mean(found) > 0.1
