"""Table I: the compared systems, re-implemented, with published AUC of settings (a) to (d).

    cgn table search_spaces/table_1.py --data CACHE --seeds 3

AnoGAN, Fixed-Point GAN and CycleGAN learn from healthy films first. Where the data has none, add
--set options.healthy=references, which takes the training pairs' other breasts. Cost: the three are trained
for thousands of steps before classification, minutes on a GPU and hours on a CPU; for a trial on a CPU add
--set options.steps=50 --set options.width=8. With ResNet50, Vanilla and Vanilla + GAP are the same network,
and its units are trained once. The four quoted lines are not run: they are results of another task.
"""

from cgn_platform.space import Quoted, Row, Table

ANOTHER_TASK = (
    "all films of INBreast, malignant against all others, normal ones included; not the benign and malignant "
    "pairs of this table (docs/readings.md, 46)"
)


def row(name: str, changes: dict[str, object], a: float, b: float, c: float, d: float) -> Row:
    return Row((name,), changes, {"a": a, "b": b, "c": c, "d": d})


def quoted(name: str, auc: float) -> Quoted:
    return Quoted((name,), {"a": auc}, ANOTHER_TASK)


TABLE = Table(
    "Table I",
    ("Methodology",),
    (
        row("Vanilla", {"method": "vanilla"}, 0.820, 0.827, 0.780, 0.697),
        row("AnoGAN", {"method": "anogan"}, 0.803, 0.796, 0.774, 0.720),
        row("Fixed-Point GAN", {"method": "fixedpoint"}, 0.835, 0.837, 0.805, 0.734),
        row("CycleGAN", {"method": "cyclegan"}, 0.852, 0.838, 0.808, 0.741),
        row("Wu et al.", {"method": "wu"}, 0.863, 0.860, 0.810, 0.723),
        row("Zhu et al.", {"method": "zhu"}, 0.860, 0.862, 0.830, 0.720),
        row("Vanilla + GAP", {"method": "vanilla", "options.head": "gap"}, 0.857, 0.827, 0.780, 0.718),
        row("Vanilla + ABN", {"method": "abn"}, 0.858, 0.846, 0.814, 0.723),
        row("Proposed Method", {}, 0.910, 0.911, 0.885, 0.781),
    ),
    quoted=(
        quoted("Pretrained CNN", 0.690),
        quoted("Pretrained CNN + Random Forest", 0.760),
        quoted("AlexNet of Zhu et al.", 0.790),
        quoted("Zhu et al., as published", 0.890),
    ),
)
