"""What to run first: baselines on the features of a frozen backbone, in minutes on a CPU.

    cgn table search_spaces/cheap_baselines.py --data CACHE --seeds 3
    cgn table search_spaces/cheap_baselines.py --data CACHE --set backbone_weights=imagenet

Whoever claims that a network helps should beat these rows. Logistic regression and the random forest read
pooled features and have no epochs; the others are trained on features that are computed once. Expect little
without ImageNet weights. The baseline of the comparison is logistic regression of the target alone.
"""

from cgn.config import Config
from cgn_platform.space import Row, Table

SOLVED = {"epochs": 1}
LOGISTIC = {"method": "logistic", **SOLVED}
FOREST = {"method": "forest", **SOLVED}


def row(name: str, changes: dict[str, object]) -> Row:
    return Row((name,), changes)


TABLE = Table(
    "Cheap baselines",
    ("Method",),
    (
        row("logistic, target", LOGISTIC),
        row("logistic, both sides", {**LOGISTIC, "options.sides": "both"}),
        row("logistic, difference", {**LOGISTIC, "options.sides": "difference"}),
        row("forest, target", FOREST),
        row("forest, both sides", {**FOREST, "options.sides": "both"}),
        row("forest, difference", {**FOREST, "options.sides": "difference"}),
        row("one view, GAP", {"method": "vanilla", "options.head": "gap"}),
        row("attention over cells", {"method": "zhu", "options.scheme": "attention"}),
        row("asymmetry alone", {"method": "asym"}),
        row("both sides fused (SBF)", {"bilateral": "sbf", "negative_embedding": False, "triplet": "none"}),
    ),
    base=Config(frozen_backbone=True),
    baseline="logistic, target",
)
