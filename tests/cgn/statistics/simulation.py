"""Simulated scores with known AUCs, on patients and folds like those of INBreast."""

import numpy as np
from scipy import stats

from cgn import metrics


def cases(seed, n=60, shift=1.0, ties=False):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    score = rng.normal(size=n) + shift * y
    return y, np.round(score) if ties else score


def mammograms(rng, patients=48, films=91, malignant=0.6, folds=5):
    """Like INBreast: about two films per patient, one label each, folds by patient and label."""
    of_patient = np.concatenate([np.arange(patients), rng.integers(0, patients, films - patients)])
    label = np.zeros(patients, int)
    label[rng.permutation(patients)[: round(malignant * patients)]] = 1
    fold = np.empty(patients, int)
    for value in (0, 1):
        members = rng.permutation(np.flatnonzero(label == value))
        fold[members] = (np.arange(len(members)) + 2 * value) % folds
    return label[of_patient], of_patient, fold[of_patient]


def readings(rng, y, patient, folds, auc, rows, shared=0.5):
    """Scores `(rows, cases)` with the given AUC (one, or one per row), as of networks on the same films.

    Rows share part of their noise, and so do films of a patient; each fold has a scale of its own.
    """

    def noise(count):
        own = rng.normal(size=(count, len(y)))
        return np.sqrt(0.5) * (own + rng.normal(size=(count, patient.max() + 1))[:, patient])

    score = np.sqrt(2) * stats.norm.ppf(np.broadcast_to(auc, rows))[:, None] * y
    score = score + np.sqrt(shared) * noise(1) + np.sqrt(1 - shared) * noise(rows)
    offset, scale = rng.normal(size=(rows, 5)), np.exp(0.3 * rng.normal(size=(rows, 5)))
    return offset[:, folds] + scale[:, folds] * score


def plain_fold_auc(y, score, folds):
    """Mean over the folds that have both classes, or None."""
    aucs = [
        metrics.auc(y[folds == k], score[folds == k])
        for k in np.unique(folds)
        if len(np.unique(y[folds == k])) == 2
    ]
    return np.mean(aucs) if aucs else None
