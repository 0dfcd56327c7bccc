"""The folder of a model.

    model.json              format, configuration, preparation, training data; SHA-256 of the other files
    fold_0.safetensors ...  one network per fold
    probe.safetensors       a few phantom pairs, as 8-bit images: no patient's films go with a model
    probe.json              the ensemble's output for them, so that a reload can be compared to the bit

`model.json` is a sealed file (`cgn.sealed`).
"""

from pathlib import Path
from typing import Any

from cgn import sealed
from cgn.errors import ModelError

FORMAT = 1
FACTS, PROBE_IMAGES, PROBE_OUTPUT = "model.json", "probe.safetensors", "probe.json"


def fold_file(fold: int) -> str:
    """Name of the file with a fold's network."""
    return f"fold_{fold}.safetensors"


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of `model.json`, verified.

    Raises:
        ModelError: there is no model, or the file is damaged or has another format.
    """
    try:
        content = (folder / FACTS).read_bytes()
    except OSError as error:
        raise ModelError(f"no model in {folder}: {FACTS}: {error.strerror}") from None
    try:
        return sealed.unseal(content, [FORMAT])
    except sealed.FormatError as error:
        raise ModelError(f"the model in {folder} {error}") from None
    except sealed.DamagedError as error:
        raise _damaged(folder, FACTS, str(error)) from None


def read_file(folder: Path, name: str, sha256: str) -> bytes:
    """The content of another file.

    Raises:
        ModelError: it is missing, or its hash is not `sha256`.
    """
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise _damaged(folder, name, error.strerror or "it cannot be read") from None
    if sealed.sha256(content) != sha256:
        raise _damaged(folder, name, "its sha256 differs")
    return content


def _damaged(folder: Path, name: str, reason: str) -> ModelError:
    return ModelError(f"{name} of the model in {folder} is damaged ({reason}): download or package it again")
