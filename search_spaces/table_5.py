"""Table V: other uses of the other breast. SBF concatenates, GF gates, SFF averages both views.

    cgn table search_spaces/table_5.py --data CACHE --seeds 3

SBF and the proposed row are those of Table III: their units are computed once for both tables. SFF needs a
cache with both views (INBreast, manifest); for a breast with one view it equals SBF.
"""

from cgn.ablation import Bilateral as B
from cgn.ablation import Triplet as T
from cgn_platform.space import Row, Table

SIMPLE = {"negative_embedding": False, "triplet": T.NONE}


def row(name: str, changes: dict[str, object], a: float, b: float, c: float, d: float) -> Row:
    return Row((name,), changes, {"a": a, "b": b, "c": c, "d": d})


TABLE = Table(
    "Table V",
    ("Methodology",),
    (
        row("SBF", {"bilateral": B.SBF, **SIMPLE}, 0.862, 0.858, 0.807, 0.721),
        row("GF", {"bilateral": B.GF, **SIMPLE}, 0.865, 0.862, 0.812, 0.726),
        row("SFF", {"bilateral": B.SFF, **SIMPLE}, 0.864, 0.862, 0.813, 0.724),
        row("Proposed Method", {}, 0.910, 0.911, 0.885, 0.781),
    ),
)
