"""Sec. IV-C, Table II. The paper's four settings: which data, which backbone, which division.

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
        parts: of `cgn cache --splits`, train, validate and test; None where five folds are drawn.
    """

    dataset: str
    config: Config
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[int, int, int] | None = None


SETTINGS = {
    "a": Setting("inbreast", Config(backbone="alexnet"), {"cohort": "mass"}),
    "b": Setting("inbreast", Config(backbone="resnet50"), {"cohort": "mass"}),
    "c": Setting("inbreast", Config(backbone="resnet50"), {"cohort": "mixed"}),
    "d": Setting("manifest", Config(backbone="alexnet"), parts=(8, 1, 1)),
}
