"""A model that can be served: the fold networks of some units as an ensemble, in an MLflow model folder.

MLmodel, requirements.txt ...   MLflow's files
served.py                       what MLflow's server runs (models from code: no pickle)
artifacts/ensemble/             what `cgn.predict` loads
evidence.json                   why the model may be served
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgn import files, sealed
from cgn.config import Config
from cgn.data.datasets import phantom
from cgn.data.pairs import Pairs
from cgn.data.phantom_films import encode_png
from cgn.errors import ModelError, one_line
from cgn.predict import Ensemble, write_ensemble
from cgn.temporary import scratch, within_scratch
from cgn_platform.serving.origin import ENSEMBLE, check_origin, ensemble_in
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Identity, Ledger, Unit
from cgn_platform.tracking import mlflow_client

if TYPE_CHECKING:
    import pandas as pd  # loaded late: it takes a second

EVIDENCE = "evidence.json"
CODE = Path(__file__).with_name("served.py")
REGISTERED = "models:/"
DEFAULT_STORE = Store(Path("runs"))

REQUIREMENTS = (
    *("mlflow", "torch", "torchvision", "safetensors", "numpy", "scipy", "scikit-learn", "pydantic"),
    *("opencv-python-headless", "pydicom", "python-gdcm", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls"),
)
"""Packages that a server needs beside this project's own wheel, pinned to the installed versions."""


def package(
    destination: Path, *, ledger: Ledger, units: Sequence[str], pairs: Pairs, evidence: Mapping[str, Any]
) -> Path:
    """Write the ensemble of these units as an MLflow model folder, complete or not at all.

    Args:
        destination: must not exist.
        ledger: holds the units.
        units: ids, one for each fold of one configuration, trained on `pairs` with the same splits and code.
        pairs: the cache that they were trained on.
        evidence: why this model may be served, as plain JSON.

    Returns:
        The destination.

    Raises:
        LedgerError: a unit is missing or damaged.
        ModelError: the units do not belong together, or the destination exists or cannot be written.
        ConfigError: this configuration needs more than a pair of films.
    """
    opened = [ledger.open(unit) for unit in units]
    shared = _shared_identity(opened, pairs)
    if destination.exists():
        raise ModelError(
            f"a model is never overwritten but {destination} exists", remedy="choose another folder"
        )
    with scratch() as folder:
        ensemble = folder / ENSEMBLE.name
        states = {unit.identity.fold: unit.model() for unit in opened}
        made_from = {
            "units": {str(unit.identity.fold): unit.id for unit in opened},
            "cache": shared.cache,
            "splits": shared.splits,
            "code": shared.code,
        }
        write_ensemble(ensemble, Config.of(shared.config), states, pairs, made_from)
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with files.atomic(destination) as draft:
                _save(draft, ensemble)
                (draft / EVIDENCE).write_bytes(sealed.plain(dict(evidence)))
        except OSError as error:
            raise ModelError(f"a model cannot be written to {destination}: {error.strerror}") from error
    return destination


def load(
    where: str | Path, *, store: Store = DEFAULT_STORE, device: str = "cpu", processes: int | None = None
) -> Ensemble:
    """Load the ensemble of a model folder, of its inner folder, or of the registry: `models:/cgn@champion`.

    Args:
        where: a folder, or `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        store: its MLflow database is used unless `MLFLOW_TRACKING_URI` names a server.
        device, processes: see `Ensemble`.

    Raises:
        ModelError: the model does not exist, is damaged, or is not the one that was registered.
    """
    with ensemble_folder(where, store) as folder:
        return Ensemble.load(folder, device, processes)


@contextmanager
def ensemble_folder(where: str | Path, store: Store) -> Iterator[Path]:
    """The folder that `load` loads from. A downloaded one is removed at the end of the block."""
    with model_folder(where, store) as folder:
        yield ensemble_in(folder)


@contextmanager
def model_folder(where: str | Path, store: Store) -> Iterator[Path]:
    """The folder of a model as MLflow knows it. A downloaded one is removed at the end of the block."""
    with scratch() as into:
        yield _download(str(where), store, into) if str(where).startswith(REGISTERED) else Path(where)


def example_input() -> "pd.DataFrame":
    """A pair as a client sends it: drawn by a program, so that no patient's films are part of a model."""
    import pandas as pd

    (record,) = phantom.scan(phantom.Options(pairs=1), 48).records
    films = record.load()
    row: dict[str, Any] = {"target": encode_png(films.target), "reference": encode_png(films.reference)}
    return pd.DataFrame([row | {"laterality": record.side, "view": record.view}])


def _download(address: str, store: Store, into: Path) -> Path:
    uri = mlflow_client.default_uri(store)
    with mlflow_client.quiet_mlflow() as mlflow:
        try:
            client = mlflow.MlflowClient(tracking_uri=uri)
            name, _, number = address.removeprefix(REGISTERED).rpartition("/")
            if name:
                version = client.get_model_version(name, number)
            else:
                name, _, alias = number.partition("@")
                version = client.get_model_version_by_alias(name, alias)
            source = client.get_model_version_download_uri(name, version.version)
            folder = Path(
                mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(into), tracking_uri=uri)
            )
        except (mlflow.exceptions.MlflowException, OSError) as error:
            raise ModelError(f"no model at {address}: {one_line(error)}") from None
    check_origin(folder, f"version {version.version} of {name}", version.tags)
    return folder


def _shared_identity(units: Sequence[Unit], pairs: Pairs) -> Identity:
    """The identity of the first unit, with which the others agree in everything but the fold."""
    if not units:
        raise ModelError("a model needs the unit of at least one fold but got none")
    identities = [unit.identity for unit in units]
    first = identities[0]
    for unit, identity in zip(units, identities, strict=True):
        for name in ("config", "splits", "cache", "code"):
            if getattr(identity, name) != getattr(first, name):
                raise ModelError(
                    f"the units of a model must have equal {name} but {unit.id} and {units[0].id} differ"
                )
    folds = [identity.fold for identity in identities]
    if len(set(folds)) != len(folds):
        raise ModelError(f"the units of a model must be of different folds but are of {sorted(folds)}")
    if first.cache != pairs.fingerprint:
        raise ModelError(
            f"the units of a model must be trained on cache {pairs.fingerprint} but were on {first.cache}"
        )
    return first


def _save(destination: Path, ensemble: Path) -> None:
    """Write MLflow's model folder around an ensemble."""
    with mlflow_client.quiet_mlflow(), within_scratch():
        from mlflow import pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        films = [ColSpec("binary", "target"), ColSpec("binary", "reference")]
        optional = [ColSpec("string", name, required=False) for name in ("laterality", "view")]
        numbers = [ColSpec("double", name) for name in ("p_malignant", "spread", "x0", "y0", "x1", "y1")]
        pyfunc.save_model(
            destination,
            python_model=str(CODE),
            artifacts={ENSEMBLE.name: str(ensemble)},
            signature=ModelSignature(
                Schema([*films, *optional]), Schema([*numbers, ColSpec("string", "warnings")])
            ),
            input_example=example_input(),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in REQUIREMENTS],
        )
