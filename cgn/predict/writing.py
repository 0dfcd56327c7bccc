"""A model's folder, written whole or not at all."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from torch import Tensor

from cgn import files, methods, sealed
from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.data.datasets import phantom
from cgn.data.pairs import Pairs
from cgn.data.preparation import PreparedPair, prepare_pair
from cgn.errors import ConfigError, ModelError
from cgn.predict.ensemble import Ensemble
from cgn.predict.folder import FACTS, FORMAT, PROBE_IMAGES, PROBE_OUTPUT, fold_file
from cgn.predict.input_warnings import training_ranges
from cgn.predict.prepared import ImageStack, pairs_of_images

PROBES, PROBE_SEED = 4, 2021
"""Phantom pairs that a model is stored with, and their seed, which no cache is likely to use."""


def write_ensemble(
    folder: Path,
    config: Config,
    states: Mapping[int, Mapping[str, Tensor]],
    pairs: Pairs,
    made_from: Mapping[str, Any],
) -> None:
    """Write a folder from which `Ensemble.load` reads, whole or not at all.

    Args:
        folder: must not exist.
        config: of all folds.
        states: each fold's tensors, as in `FoldResult.state`.
        pairs: the training data: how it was prepared, and the ranges of its measurements.
        made_from: plain JSON that is stored with it: units, cache, splits, code.

    Raises:
        ConfigError: a model of this configuration needs more than a pair.
        ModelError: the folder exists, or cannot be written.
    """
    if folder.exists():
        raise ModelError(f"a model is written once but {folder} exists: choose another folder")
    if methods.build(config.edit(backbone_weights="none")).needs_other:
        raise ConfigError(
            "this configuration needs both views of a breast but a pair to predict has one: "
            "choose a method, or a value of bilateral, that reads one view"
        )
    facts = _facts(config, sorted(states), pairs, made_from)
    content = {
        fold_file(fold): save_tensors({k: v.detach().cpu().contiguous() for k, v in state.items()})
        for fold, state in states.items()
    }
    content |= _probe(facts, [states[fold] for fold in facts["folds"]], pairs.size)
    facts["files"] = {name: sealed.sha256(data) for name, data in content.items()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(folder) as draft:
            draft.mkdir()
            for name, data in (content | {FACTS: sealed.seal(facts)}).items():
                (draft / name).write_bytes(data)
    except OSError as error:
        raise ModelError(f"a model cannot be written to {folder}: {error.strerror}") from error


def _facts(config: Config, folds: list[int], pairs: Pairs, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `model.json` without the hashes of the other files."""
    options = pairs.recipe.get("options", {})
    preparation = {"background": pairs.recipe.get("background"), "range": options.get("range")}
    return {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "folds": folds,
        "preparation": {"size": pairs.size} | {name: value for name, value in preparation.items() if value},
        "trained_on": {
            "dataset": pairs.name,
            "pairs": len(pairs),
            "views": sorted(set(pairs.view.tolist())),
            "ranges": training_ranges(pairs),
        },
        "made_from": dict(made_from),
        "environment": {"torch": torch.__version__, "machine": platform.machine()},
    }


def _probe(facts: Mapping[str, Any], states: Sequence[Mapping[str, Tensor]], size: int) -> dict[str, bytes]:
    """The files with the probe pairs and with the ensemble's output for them."""
    images = _phantoms(size)
    with Ensemble(facts, states) as ensemble:
        result = ensemble.predict_prepared(pairs_of_images(**images))
        output = {"fold_p": result.fold_p.tolist(), "boxes": ensemble.localise(result)}
    arrays = {name: np.ascontiguousarray(image) for name, image in images.items()}
    return {PROBE_IMAGES: save_arrays(arrays), PROBE_OUTPUT: sealed.plain(output)}


def _phantoms(size: int) -> dict[str, ImageStack]:
    records = phantom.scan(phantom.Options(pairs=PROBES, seed=PROBE_SEED), size).records
    prepared = [prepare_pair(record, Preprocessing(size)) for record in records]
    pairs = [pair for pair in prepared if isinstance(pair, PreparedPair)]
    return {
        "target": np.stack([pair.target.pixels for pair in pairs]),
        "reference": np.stack([pair.reference.pixels for pair in pairs]),
    }
