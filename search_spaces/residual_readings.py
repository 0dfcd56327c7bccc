"""How much the residual systems depend on what the paper leaves open (docs/readings.md, 39, 40 and 44).

    cgn table search_spaces/residual_readings.py --data CACHE --seeds 3
    cgn table search_spaces/residual_readings.py --data CACHE --set method=fixedpoint

Each row changes one reading of CycleGAN, or of the system that --set method= names; the first row is the
default of Table I. Rows that differ in the classifier alone train the same generator again, because a unit is
one whole training. Cost: seven rows of generators; for a trial on a CPU add --set options.steps=50 and
--set options.width=8.
"""

from cgn.config import Config
from cgn_platform.space import Row, Table


def row(name: str, **options: str) -> Row:
    return Row((name,), {f"options.{option}": value for option, value in options.items()})


TABLE = Table(
    "Readings of the residual systems",
    ("Reading",),
    (
        row("H_T - H_C beside H_T (default)"),
        row("features of |X_T - X_C|", residual="image"),
        row("anomaly score alone", residual="score"),
        row("X_C without the target's detail", detail="replace"),
        row("located by |X_T - X_C|", map="residual"),
        row("references as healthy films", healthy="references"),
        row("benign targets as healthy films", healthy="benign"),
    ),
    base=Config(method="cyclegan"),
    baseline="H_T - H_C beside H_T (default)",
)
