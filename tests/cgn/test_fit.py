import copy
import dataclasses
import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from cgn import equations, methods, metrics
from cgn.errors import ConfigError, DataError, DivergedError
from cgn.fit import CrossResult, cross_validate, fit, last, lockstep, network_of, predict
from cgn.images import Images
from cgn.results import FoldState
from cgn.streams import stream_seed


def facts(value):
    """A result as plain values without `seconds`, which differ from run to run."""
    if dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value) if f.name != "seconds"]
        return {name: facts(getattr(value, name)) for name in fields}
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, tuple | list):
        return [facts(v) for v in value]
    if isinstance(value, torch.Tensor):
        return facts(value.numpy())
    if isinstance(value, Mapping):
        return {k: facts(v) for k, v in value.items()}
    return repr(value) if isinstance(value, float) else value


def run(generator):
    reports = []
    while True:
        try:
            reports.append(next(generator))
        except StopIteration as end:
            return reports, end.value


def test_a_run_repeats_bit_for_bit(tiny, pairs, splits):
    first = run(fit(tiny, pairs, splits[0]))
    torch.rand(7)  # draws from the global generator do not matter
    assert facts(run(fit(tiny, pairs, splits[0]))) == facts(first)
    assert facts(run(fit(tiny.edit(seed=1), pairs, splits[0]))) != facts(first)


def test_lockstep_gives_the_results_of_folds_run_one_after_another(tiny, pairs, splits):
    reports, result = run(cross_validate(tiny, pairs, splits))
    single = [run(fit(tiny, pairs, split)) for split in splits]
    assert facts(result.folds) == facts(tuple(r for _, r in single))
    for k, (own, _) in enumerate(single):
        assert facts([report.folds[k] for report in reports]) == facts(own)
    for report in reports:
        assert report.val_auc == pytest.approx(np.mean([fold.val_auc for fold in report.folds]))


def test_the_test_fold_does_not_affect_training(tiny, pairs, splits):
    """Invariant 6: no score that is reported was used to choose anything."""
    blank = pairs.target.copy()
    blank[splits[0].test] = 0
    other = dataclasses.replace(pairs, target=blank)
    reports, result = run(fit(tiny, pairs, splits[0]))
    other_reports, other_result = run(fit(tiny, other, splits[0]))
    assert facts(other_reports) == facts(reports)
    assert other_result.best_epoch == result.best_epoch
    assert facts(other_result.predictions) != facts(result.predictions)


def test_the_best_validation_epoch_is_kept(tiny, pairs, splits):
    """The test scores are those of a run that stops at the best epoch."""
    reports, result = run(fit(tiny.edit(epochs=6, learning_rate=0.02), pairs, splits[0]))
    curve = [report.val_auc for report in reports]
    assert result.best_epoch == int(np.argmax(curve))
    assert result.val_auc == max(curve)
    short = last(fit(tiny.edit(epochs=result.best_epoch + 1, learning_rate=0.02), pairs, splits[0]))
    assert facts(short.predictions) == facts(result.predictions)


def test_training_learns_the_class_and_localises_it(tiny, pairs, splits):
    result = last(cross_validate(tiny.edit(epochs=20, bilateral="oracle"), pairs, splits))
    assert isinstance(result, CrossResult)
    assert result.test_auc > 0.9
    assert result.val_auc == pytest.approx(np.mean([f.val_auc for f in result.folds]))
    for fold in result.folds:
        p = fold.predictions
        assert fold.test_auc == metrics.auc(p.label, p.p_malignant)
        assert np.isnan(p.iou).tolist() == (p.label == 0).tolist()
        assert fold.localization_error_any_class <= fold.localization_error


def test_a_fold_without_both_classes_is_refused(tiny, pairs, splits):
    benign = np.flatnonzero(pairs.label == 0)
    with pytest.raises(DataError, match="fold 0: the test pairs must have both classes"):
        next(fit(tiny, pairs, dataclasses.replace(splits[0], test=benign[:4])))


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_missing_device_is_refused(device, tiny, pairs, splits):
    with pytest.raises(ConfigError, match=r"device .*must (be|exist)"):
        next(fit(tiny, pairs, splits[0], device))


def test_a_loss_that_is_not_finite_stops_the_fold(tiny, pairs, splits, monkeypatch):
    plain = equations.l_ft
    monkeypatch.setattr(equations, "l_ft", lambda *args: plain(*args) * float("nan"))
    with pytest.raises(DivergedError, match="must stay finite but is nan"):
        next(fit(tiny, pairs, splits[0]))


def test_only_requested_epochs_are_trained(tiny, pairs, splits):
    """Pruning a trial saves the epochs that it says it saves."""
    config, stores = tiny.edit(epochs=5), [Checkpoints(1) for _ in splits]
    folds = [fit(config, pairs, s, checkpoints=store) for s, store in zip(splits, stores, strict=True)]
    running = lockstep(folds, config.epochs)
    next(running)
    running.close()
    assert [len(store.states) for store in stores] == [1, 1, 1]


class Checkpoints:
    """Keeps every checkpoint as a ledger does: tensors are copied, facts are converted to JSON and back."""

    def __init__(self, checkpoint_every, states=()):
        self.checkpoint_every, self.states = checkpoint_every, list(states)

    def load(self):
        return self.states[-1] if self.states else None

    def save(self, state):
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        self.states.append(FoldState(tensors, json.loads(json.dumps(state.facts))))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_fold_equals_the_uninterrupted_one_to_the_bit(precision, tiny, pairs, splits):
    config = tiny.edit(epochs=7, learning_rate=0.01, precision=precision)
    reports, whole = run(fit(config, pairs, splits[0]))
    checkpoints = Checkpoints(2)
    running = fit(config, pairs, splits[0], checkpoints=checkpoints)
    for _ in range(5):
        next(running)
    running.close()
    assert [len(state.facts["reports"]) for state in checkpoints.states] == [2, 4]
    for states in (checkpoints.states[:1], checkpoints.states):
        torch.rand(3)
        resumed_reports, resumed = run(fit(config, pairs, splits[0], checkpoints=Checkpoints(2, states)))
        assert facts(resumed_reports) == facts(reports)
        assert facts(resumed) == facts(whole)


def test_the_network_of_a_result_reproduces_its_predictions(tiny, pairs, splits):
    result = last(fit(tiny, pairs, splits[0]))
    network = network_of(tiny, result.state)
    batch = Images(pairs).batch(torch.as_tensor(splits[0].test.copy()))
    assert (
        network.predict(batch).p_malignant.double().numpy().tolist()
        == result.predictions.p_malignant.tolist()
    )


@pytest.mark.parametrize("switches", [{}, {"feature_channels": 16}, {"bilateral": "sff"}])
def test_a_frozen_backbone_does_not_change_and_the_other_parts_do(switches, tiny, pairs, splits):
    config = tiny.edit(frozen_backbone=True, **{"negative_embedding": False, "triplet": "none"}, **switches)
    result = last(fit(config, pairs, splits[0]))
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(config.seed, 0, "weights"))
        initial = methods.build(config).state_dict()
    changed = {name for name, tensor in initial.items() if not torch.equal(tensor, result.state[name])}
    assert set(result.state) == set(initial)
    assert not [name for name in changed if name.startswith("backbone.backbone.")]
    assert [name for name in changed if name.startswith("classifier.")]
    assert ("backbone.projection.weight" in changed) == ("feature_channels" in switches)
    again = predict(network_of(config, result.state), Images(pairs), splits[0].test)
    assert torch.allclose(again.p_malignant.double(), torch.tensor(result.predictions.p_malignant), atol=1e-6)


def test_features_of_a_frozen_backbone_are_computed_once_for_equal_weights(tiny, pairs):
    images = Images(pairs)
    trunk = methods.build(tiny).release_trunk()[1]
    assert images.through(trunk) is images.through(copy.deepcopy(trunk))
    assert images.through(trunk) is not images.through(methods.build(tiny).release_trunk()[1])


def test_an_image_generator_excludes_a_frozen_backbone(tiny):
    with pytest.raises(ConfigError, match="choose one of the two"):
        tiny.edit(frozen_backbone=True, generator_level="image")


def test_a_batch_has_the_other_view_if_it_is_needed(pairs):
    two = dataclasses.replace(
        pairs,
        patient_id=np.array([f"w{i // 2}" for i in range(24)]),
        study_id=np.array(["s"] * 24),
        view=np.array(["MLO", "CC"] * 12),
        side=np.array(["L"] * 24),
    )
    index = torch.tensor([0, 1, 6])
    batch = Images(two).batch(index, other=True)
    assert torch.equal(batch.other_target, Images(two).batch(torch.tensor([1, 0, 7])).target)
    single = Images(pairs).batch(index, other=True)  # a pair without another view is its own other view
    assert torch.equal(single.other_reference, single.reference)
