"""Which units a model was made from: named in its `model.json`, and by the tags of its registered version."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cgn.errors import ModelError

ENSEMBLE = Path("artifacts", "ensemble")  # within MLflow's model folder
KEY, UNITS = "cgn.key", "cgn.units"  # tags of a version


def units_key(measured: Sequence[Sequence[str]], served: Sequence[str]) -> str:
    """Hash of the units that were measured, `[seed][fold]`, and of those that are served: it identifies a
    version.
    """
    return hashlib.sha256(json.dumps([measured, list(served)]).encode()).hexdigest()[:24]


def ensemble_in(folder: Path) -> Path:
    """The folder that an ensemble is loaded from, of MLflow's model folder or of that folder itself."""
    inner = folder / ENSEMBLE
    return inner if inner.is_dir() else folder


def check_origin(folder: Path, version: str, tags: Mapping[str, str]) -> None:
    """Check that the files of a version are those of the units that its tags name.

    Versions without a key were not registered by `cgn promote` and name no units.

    Args:
        folder: as it was downloaded.
        version: for the message, such as `version 3 of cgn`.
        tags: of the version.

    Raises:
        ModelError: they are another model's files, or damaged.
    """
    from cgn.predict import read_facts  # loads torch

    if not (key := tags.get(KEY)):
        return
    try:
        measured = json.loads(tags[UNITS])
    except (KeyError, ValueError):
        raise ModelError(
            f"the tags of {version} do not name the units it was made from", remedy="promote the model again"
        ) from None
    made_from: Mapping[str, str] = read_facts(ensemble_in(folder))["made_from"]["units"]
    served = [made_from[fold] for fold in sorted(made_from, key=int)]
    if units_key(measured, served) != key:
        raise ModelError(
            f"the files of {version} are those of another model: they were made from the units "
            f"{', '.join(served)}, which its tags do not name",
            remedy="restore its files, or delete this version in MLflow and promote the model again",
        )
