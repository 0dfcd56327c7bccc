"""Table III: what each part of the network adds. Ten rows, with published AUC of settings (a) to (d).

    cgn table search_spaces/table_3.py --data CACHE --seeds 3

Cost: ten rows x five folds x seeds units. With AlexNet at 224 pixels, a unit of 50 epochs on 91 pairs takes
more than half an hour of a CPU core; `--set frozen_backbone=true` trains on features that are computed once.
Expect
wide intervals: with 91 pairs, differences of AUC below about 0.1 are rarely significant.
"""

from cgn.ablation import Bilateral as B
from cgn.ablation import Triplet as T
from cgn_platform.space import Row, Table

BILATERAL = {
    B.NONE: "×",
    B.SBF: "SBF",
    B.TF_GAN: "TF-GAN",
    B.BF_GAN: "BF-GAN",
    B.ADAIN_GAN: "AdaIN-GAN",
}
TRIPLET = {T.NONE: "×", T.NON_FEEDBACK: "Non-feedback", T.FEEDBACK: "Feedback"}


def row(bilateral: B, l_ne: bool, triplet: T, a: float, b: float, c: float, d: float) -> Row:
    return Row(
        (BILATERAL[bilateral], "✓" if l_ne else "×", TRIPLET[triplet]),
        {"bilateral": bilateral, "negative_embedding": l_ne, "triplet": triplet},
        {"a": a, "b": b, "c": c, "d": d},
    )


TABLE = Table(
    "Table III",
    ("Bilateral", "L_NE", "Triplet Loss"),
    (
        row(B.NONE, False, T.NONE, 0.820, 0.827, 0.780, 0.697),
        row(B.SBF, False, T.NONE, 0.862, 0.858, 0.807, 0.721),
        row(B.TF_GAN, False, T.NONE, 0.883, 0.873, 0.857, 0.731),
        row(B.BF_GAN, False, T.NONE, 0.860, 0.842, 0.849, 0.720),
        row(B.ADAIN_GAN, False, T.NONE, 0.886, 0.873, 0.858, 0.734),
        row(B.ADAIN_GAN, True, T.NONE, 0.891, 0.898, 0.874, 0.777),
        row(B.ADAIN_GAN, True, T.NON_FEEDBACK, 0.873, 0.863, 0.858, 0.741),
        row(B.NONE, True, T.FEEDBACK, 0.837, 0.851, 0.836, 0.716),
        row(B.ADAIN_GAN, False, T.FEEDBACK, 0.905, 0.902, 0.884, 0.771),
        row(B.ADAIN_GAN, True, T.FEEDBACK, 0.910, 0.911, 0.885, 0.781),  # proposed
    ),
)
