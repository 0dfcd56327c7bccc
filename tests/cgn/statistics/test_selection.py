import runpy
from pathlib import Path

import numpy as np
import pytest

from cgn import metrics, statistics

SIMULATION = runpy.run_path(str(Path(__file__).with_name("simulation.py")))
mammograms, readings, plain_fold_auc = (
    SIMULATION[name] for name in ("mammograms", "readings", "plain_fold_auc")
)


def test_the_best_of_fifty_random_scores_is_corrected_to_chance():
    rng = np.random.default_rng(6)
    y = np.arange(90) % 2
    raw, corrected = [], []
    for run in range(20):
        scores = rng.normal(size=(50, 90))
        raw.append(max(metrics.auc(y, row) for row in scores))
        corrected.append(statistics.bbc(y, scores, n=200, seed=run).estimate)
    assert np.mean(raw) > 0.6
    assert np.mean(corrected) == pytest.approx(0.5, abs=0.02)


def test_a_true_winner_keeps_its_score():
    rng = np.random.default_rng(7)
    y = np.arange(400) % 2
    scores = rng.normal(size=(10, 400))
    scores[3] += 2 * y
    assert statistics.bbc(y, scores, n=200).estimate == pytest.approx(metrics.auc(y, scores[3]), abs=0.01)


def test_the_winner_of_a_search_has_a_corrected_auc():
    rng = np.random.default_rng(26)
    y, patient, folds = mammograms(rng)
    rows = dict(zip(map(str, range(40)), readings(rng, y, patient, folds, 0.7, 40), strict=True))
    best = statistics.winner(y, rows, patient, folds)
    aucs = {name: plain_fold_auc(y, score, folds) for name, score in rows.items()}
    assert best.name == max(aucs, key=aucs.get)
    assert best.raw == pytest.approx(aucs[best.name])
    assert best.corrected.low < best.corrected.estimate < best.raw - 0.03
    assert best.corrected == statistics.bbc(y, list(rows.values()), patient, folds=folds)


@pytest.mark.parametrize(
    "auc",
    [0.7, np.linspace(0.55, 0.8, 12), np.append(np.full(11, 0.6), 0.75)],
    ids=["equal", "unequal", "one is good"],
)
def test_the_interval_of_a_winner_covers_its_true_auc(auc):
    """It is conservative, but not useless."""
    rng, runs, hits, width = np.random.default_rng(27), 200, 0, 0.0
    for run in range(runs):
        y, patient, folds = mammograms(rng)
        rows = dict(zip(map(str, range(12)), readings(rng, y, patient, folds, auc, 12), strict=True))
        best = statistics.winner(y, rows, patient, folds, n=300, seed=run)
        truth = np.broadcast_to(auc, 12)[int(best.name)]
        hits += best.corrected.low <= truth <= best.corrected.high
        width += (best.corrected.high - best.corrected.low) / runs
    assert hits >= 0.92 * runs
    assert 0.2 < width < 0.4
