"""What MLflow's server runs: this file is copied into the model's folder, and no pickle is read.

A row is a pair: `target` and `reference` are the bytes of DICOM, PNG, PGM or TIFF files (base64 in JSON).
Paths are refused: a client must not be able to name files of the server.
"""

import base64
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.protos import databricks_pb2

from cgn.data.reading.films import FilmPair
from cgn.errors import TimeLimitError
from cgn.predict import Ensemble, PairPrediction

COLUMNS = ("p_malignant", "spread", "x0", "y0", "x1", "y1", "warnings")
TIMEOUT = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"  # set by servers; after so many seconds they answer 504
SHARE = 0.75  # of these seconds may pass until all films are opened; JSON and networks need the rest
BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
"""No film consists of such bytes alone. MLflow decodes base64 in data frames, but not in `inputs` and
`instances`."""
SMALL = 1000  # bytes; whatever is no film and so small may be a path, which MLflow "decodes" as base64
NO_FILM = "target and reference must be the bytes of files (base64 in JSON): the server opens no paths"


class ServedEnsemble(mlflow.pyfunc.PythonModel):
    """The ensemble as an MLflow model."""

    def load_context(self, context: Any) -> None:
        """Load the ensemble; every file is compared with its sha256. Raises ModelError."""
        self._ensemble = Ensemble.load(Path(context.artifacts["ensemble"]))
        self._requests: dict[int, dict[str, float]] = {}

    def close(self) -> None:
        """End the processes that open films."""
        self._ensemble.close()

    def progress(self) -> list[dict[str, float]]:
        """For each running request: its pairs, how many of them are opened, and its seconds."""
        now = time.monotonic()
        return [
            {"pairs": facts["pairs"], "opened": facts["opened"], "seconds": round(now - facts["began"], 1)}
            for facts in list(self._requests.values())
        ]

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """One row for each pair, in their order; null numbers and a warning if its films cannot be used."""
        pairs = [_pair(row) for row in model_input.to_dict("records")]
        seconds = float(os.environ[TIMEOUT]) * SHARE if TIMEOUT in os.environ else None
        request = {"pairs": len(pairs), "opened": 0, "began": time.monotonic()}
        self._requests[id(request)] = request
        try:
            predictions = self._ensemble.predict(
                pairs, seconds=seconds, on_opened=lambda count: request.update(opened=count)
            )
        except TimeLimitError as error:
            raise mlflow.MlflowException(
                f"{error} ({os.environ[TIMEOUT]} s for a request): send fewer pairs in a request, or predict "
                "a table of films with 'cgn predict --manifest'",
                databricks_pb2.DEADLINE_EXCEEDED,
            ) from None
        finally:
            del self._requests[id(request)]
        rows = [_output(pair, prediction) for pair, prediction in zip(pairs, predictions, strict=True)]
        return pd.DataFrame(rows, columns=COLUMNS, dtype=object)  # None is null in JSON, NaN is not JSON


def _pair(row: Mapping[Any, Any]) -> FilmPair:
    side, view = (_text(row.get(name)) for name in ("laterality", "view"))
    if side not in (None, "L", "R"):
        raise mlflow.MlflowException.invalid_parameter_value(f"laterality must be L or R but is {side!r}")
    return FilmPair.of(_film(row["target"]), _film(row["reference"]), side, view)


def _film(value: Any) -> bytes:
    """The bytes of a film."""
    if not isinstance(value, bytes):
        raise mlflow.MlflowException.invalid_parameter_value(NO_FILM)
    return base64.b64decode(value) if BASE64.fullmatch(value) else bytes(value)


def _text(value: Any) -> Any:
    """A text, or None: a null among `inputs` and `instances` arrives as the text None."""
    return None if pd.isna(value) or value in ("None", "") else value


def _output(pair: FilmPair, prediction: PairPrediction) -> tuple[Any, ...]:
    """A prediction as plain values; the box in pixels of the target's source image."""
    if not prediction.refused:
        numbers = (prediction.p_malignant, prediction.spread, *prediction.box)
        return (*numbers, json.dumps(prediction.warnings))
    sizes = [len(film.content) for film in (pair.target, pair.reference) if isinstance(film.content, bytes)]
    hints = [NO_FILM] if min(sizes) < SMALL else []
    return (*(None,) * 6, json.dumps([*prediction.warnings, *hints]))


mlflow.models.set_model(ServedEnsemble())
