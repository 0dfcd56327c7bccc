"""Sec. IV-C, Table II. The paper's four settings: which data, which backbone, which split.

>>> SETTINGS["b"].config.backbone
'resnet50'
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cgn.config import Config


@dataclass(frozen=True)
class Setting:
    """Data and base configuration of one column of the paper's tables.

    Attributes:
        dataset, options: of `cgn cache DATASET`; where the files lie is the user's to say.
        config: what is trained; everything else is a default.
        folds: of `cgn cache --folds`.
        fold: the only one that is trained; None trains all of them.
    """

    dataset: str
    config: Config
    options: Mapping[str, Any] = field(default_factory=dict)
    folds: int = 5
    fold: int | None = None


SETTINGS = {
    "a": Setting("inbreast", Config(backbone="alexnet"), {"cohort": "mass"}),
    "b": Setting("inbreast", Config(backbone="resnet50"), {"cohort": "mass"}),
    "c": Setting("inbreast", Config(backbone="resnet50"), {"cohort": "mixed"}),
    # In-house: 8 : 1 : 1 by patient is one fold of ten, the next one for validation (reading 18).
    "d": Setting("manifest", Config(backbone="alexnet"), folds=10, fold=0),
}
