"""What MLflow's server runs: this file is copied into the model's folder, and no pickle is read.

A row is a pair: `target` and `reference` are the bytes of DICOM, PNG, PGM or TIFF files (base64 in JSON).
Paths are refused: a client must not be able to name files of the server.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from cgn.data.reading.films import FilmPair
from cgn.predict import Ensemble, PairPrediction

COLUMNS = ("p_malignant", "spread", "x0", "y0", "x1", "y1", "warnings")


class ServedEnsemble(mlflow.pyfunc.PythonModel):
    """The ensemble as an MLflow model."""

    def load_context(self, context: Any) -> None:
        """Load the ensemble; every file is compared with its sha256. Raises ModelError."""
        self._ensemble = Ensemble.load(Path(context.artifacts["ensemble"]))

    def close(self) -> None:
        """End the processes that open films."""
        self._ensemble.close()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """One row for each pair, in their order; null numbers and a warning if its films cannot be used."""
        pairs = [_pair(row) for row in model_input.to_dict("records")]
        rows = [_output(prediction) for prediction in self._ensemble.predict(pairs)]
        return pd.DataFrame(rows, columns=COLUMNS, dtype=object)  # None is null in JSON, NaN is not JSON


def _pair(row: Mapping[Any, Any]) -> FilmPair:
    side, view = (None if pd.isna(row.get(name)) else row[name] for name in ("laterality", "view"))
    if side not in (None, "L", "R"):
        raise mlflow.MlflowException.invalid_parameter_value(f"laterality must be L or R but is {side!r}")
    if not all(isinstance(row[role], bytes) for role in ("target", "reference")):
        raise mlflow.MlflowException.invalid_parameter_value(
            "target and reference must be the bytes of files (base64 in JSON), not paths"
        )
    return FilmPair.of(row["target"], row["reference"], side, view)


def _output(prediction: PairPrediction) -> tuple[Any, ...]:
    """A prediction as plain values; the box in pixels of the target's source image."""
    numbers: tuple[float | None, ...] = (None,) * 6
    if not prediction.refused:
        numbers = (prediction.p_malignant, prediction.spread, *prediction.box)
    return (*numbers, json.dumps(prediction.warnings))


mlflow.models.set_model(ServedEnsemble())
