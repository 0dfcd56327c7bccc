"""Prediction with the ensemble of all folds, from raw films, and the folder that a model is stored in.

A pair of films is prepared by the functions that prepare a cache, and predicted by `cgn.fit.predict`.

- `prediction`: what is predicted for a pair
- `input_warnings`: pairs that differ from the training data
- `folder`: the files of a model, and how they are verified
- `ensemble`: the networks of all folds
- `writing`: a model's folder, written whole or not at all
"""

from cgn.predict.ensemble import Ensemble
from cgn.predict.folder import read_facts
from cgn.predict.prediction import EMPTY_BOX, EnsembleOutput, PairPrediction
from cgn.predict.writing import PROBES, write_ensemble

__all__ = [
    "EMPTY_BOX",
    "PROBES",
    "Ensemble",
    "EnsembleOutput",
    "PairPrediction",
    "read_facts",
    "write_ensemble",
]
