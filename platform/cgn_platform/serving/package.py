"""A model that can be served: the fold networks of some units as an ensemble, in an MLflow model directory.

MLmodel, requirements.txt ...   MLflow's
served.py                       what it runs (models from code: no pickle)
artifacts/ensemble/             what `cgn.predict` loads
evidence.json                   why it may be served
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgn.data.drawn import png

from cgn import files
from cgn.config import Config
from cgn.data.datasets import phantom
from cgn.data.pairs import Pairs
from cgn.errors import ModelError
from cgn.predict import Ensemble, write_ensemble
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Identity, Ledger, Unit
from cgn_platform.tracking import mlflow_client

if TYPE_CHECKING:
    import pandas as pd


ENSEMBLE, EVIDENCE = Path("artifacts", "ensemble"), "evidence.json"


CODE = Path(__file__).with_name("served.py")


REGISTERED = "models:/"
DEFAULT_STORE = Store(Path("runs"))


REQUIREMENTS = (
    *("mlflow", "torch", "torchvision", "safetensors", "numpy", "scipy", "scikit-learn", "pydantic"),
    *("opencv-python-headless", "pydicom", "python-gdcm", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls"),
)
"""What a server needs beside this project's own wheel, pinned as it was tried."""


def package(
    destination: Path, *, ledger: Ledger, units: Sequence[str], pairs: Pairs, evidence: Mapping[str, Any]
) -> Path:
    """Write the ensemble of these units as an MLflow model directory, whole or not at all.

    Args:
        destination: is not there yet.
        ledger: that has the units.
        units: ids, one a fold of one configuration, trained on `pairs` with equal splits and code.
        pairs: the cache that they were trained on.
        evidence: why this model may be served, as plain JSON.

    Returns:
        The destination.

    Raises:
        LedgerError: a unit is missing or damaged.
        ModelError: the units do not belong together, or something stands at the destination.
        ConfigError: this configuration needs more than a pair of films.
    """
    found = [ledger.open(unit) for unit in units]
    shared = _shared(found, pairs)
    if destination.exists():
        raise ModelError(f"a model is written once but {destination} is there: choose another folder")
    with tempfile.TemporaryDirectory(prefix="cgn-") as scratch:
        made = Path(scratch) / ENSEMBLE.name
        states = {unit.identity.fold: unit.model() for unit in found}
        made_from = {
            "units": {str(unit.identity.fold): unit.id for unit in found},
            "cache": shared.cache,
            "splits": shared.splits,
            "code": shared.code,
        }
        write_ensemble(made, Config.of(shared.config), states, pairs, made_from)
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with files.atomic(destination) as draft:
                _save(draft, made)
                (draft / EVIDENCE).write_text(json.dumps(dict(evidence), indent=1) + "\n")
        except OSError as error:
            raise ModelError(f"a model cannot be written to {destination}: {error.strerror}") from error
    return destination


def load(
    where: str | Path, *, store: Store = DEFAULT_STORE, device: str = "cpu", processes: int | None = None
) -> Ensemble:
    """The ensemble of a model directory, of its inner folder, or of the registry: `models:/cgn@champion`.

    Args:
        where: a folder, or `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        store: whose MLflow database is asked where `MLFLOW_TRACKING_URI` names no other.
        device, processes: see `Ensemble`.

    Raises:
        ModelError: no such model, or a damaged one.
    """
    with fetched(where, store) as folder:
        return Ensemble.load(folder, device, processes)


@contextmanager
def fetched(where: str | Path, store: Store) -> Iterator[Path]:
    """What `load` loads from: a folder, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="cgn-") as scratch:
        folder = Path(where)
        if str(where).startswith(REGISTERED):
            folder = _download(str(where), store, scratch)
        inner = folder / ENSEMBLE
        yield inner if inner.is_dir() else folder


def _download(address: str, store: Store, into: str) -> Path:
    uri = mlflow_client.default_uri(store)
    with mlflow_client.quiet_mlflow() as mlflow:
        try:
            client = mlflow.MlflowClient(tracking_uri=uri)
            name, _, number = address.removeprefix(REGISTERED).rpartition("/")
            if not name:
                name, _, alias = number.partition("@")
                number = client.get_model_version_by_alias(name, alias).version
            source = client.get_model_version_download_uri(name, number)
            found = mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=into, tracking_uri=uri)
        except (mlflow.exceptions.MlflowException, OSError) as error:
            raise ModelError(f"no model at {address}: {' '.join(str(error).split())}") from None
    return Path(found)


def example() -> "pd.DataFrame":
    """A pair as a server is asked: drawn, so that nobody's films go with a model."""
    import pandas as pd

    (record,) = phantom.scan(phantom.Options(pairs=1), 48).records
    films = record.load()
    row: dict[str, Any] = {"target": png(films.target), "reference": png(films.reference)}
    return pd.DataFrame([row | {"laterality": record.side, "view": record.view}])


def _shared(units: Sequence[Unit], pairs: Pairs) -> Identity:
    """What all units were made from, but for their fold."""
    if not units:
        raise ModelError("a model needs the unit of one fold at least but got none")
    identities = [unit.identity for unit in units]
    first = identities[0]
    for unit, identity in zip(units, identities, strict=True):
        for name in ("config", "splits", "cache", "code"):
            if getattr(identity, name) != getattr(first, name):
                raise ModelError(
                    f"units of a model must have equal {name} but those of {unit.id} and {units[0].id} differ"
                )
    folds = [identity.fold for identity in identities]
    if len(set(folds)) != len(folds):
        raise ModelError(f"units of a model must be of different folds but are of {sorted(folds)}")
    if first.cache != pairs.fingerprint:
        raise ModelError(
            f"units of a model must be trained on cache {pairs.fingerprint} but were on {first.cache}"
        )
    return first


def _save(destination: Path, ensemble: Path) -> None:
    with mlflow_client.quiet_mlflow():
        from mlflow import pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        films = [ColSpec("binary", "target"), ColSpec("binary", "reference")]
        told = [ColSpec("string", name, required=False) for name in ("laterality", "view")]
        numbers = [ColSpec("double", name) for name in ("p_malignant", "spread", "x0", "y0", "x1", "y1")]
        pyfunc.save_model(
            destination,
            python_model=str(CODE),
            artifacts={ENSEMBLE.name: str(ensemble)},
            signature=ModelSignature(
                Schema([*films, *told]), Schema([*numbers, ColSpec("string", "warnings")])
            ),
            input_example=example(),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in REQUIREMENTS],
        )
