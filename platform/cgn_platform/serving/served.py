"""What MLflow runs to serve a model: this file is copied beside it, and no pickle is read.

A row is a pair: `target` and `reference` are the bytes of DICOM, PNG, PGM or TIFF files (base64 in JSON).
Paths are not taken here: whoever may ask over HTTP must not name files of the server.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from cgn.data.films import FilmPair

from cgn.predict import Ensemble, PairPrediction

COLUMNS = ("p_malignant", "spread", "x0", "y0", "x1", "y1", "warnings")


class Served(mlflow.pyfunc.PythonModel):
    """The ensemble behind MLflow's `predict`."""

    def load_context(self, context: Any) -> None:
        """Every file is compared with its sha256. Raises ModelError."""
        self._ensemble = Ensemble.load(Path(context.artifacts["ensemble"]))

    def close(self) -> None:
        """End the processes that open films."""
        self._ensemble.close()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """A row a pair, in their order; empty numbers and a warning where its films cannot be used."""
        pairs = [_pair(row) for row in model_input.to_dict("records")]
        told = [row_of(prediction) for prediction in self._ensemble.predict(pairs)]
        return pd.DataFrame(told, columns=COLUMNS, dtype=object)  # None is null in JSON, NaN is not JSON


def _pair(row: Mapping[Any, Any]) -> FilmPair:
    side, view = (None if pd.isna(said := row.get(name)) else said for name in ("laterality", "view"))
    if side not in (None, "L", "R"):
        raise mlflow.MlflowException.invalid_parameter_value(f"laterality must be L or R but is {side!r}")
    if not all(isinstance(row[role], bytes) for role in ("target", "reference")):
        raise mlflow.MlflowException.invalid_parameter_value(
            "target and reference must be the bytes of files, base64 in JSON, and no paths"
        )
    return FilmPair.of(row["target"], row["reference"], side, view)


def row_of(said: PairPrediction) -> tuple[Any, ...]:
    """A prediction as plain values; the box in pixels of the target's source image."""
    numbers = (None,) * 6 if said.refused else (said.p_malignant, said.spread, *said.box)
    return (*numbers, json.dumps(said.warnings))


mlflow.models.set_model(Served())
