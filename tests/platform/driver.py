"""A driver in a process of its own, to be killed: ten simulated trials in the store that it is given.

Prints what `cgn sweep` prints and, last, the study as one line of JSON.
"""

import json
import runpy
import sys
from pathlib import Path

from rich.console import Console

from cgn.config import Config
from cgn.data.folds import make_splits
from cgn.errors import CGNError
from cgn_platform import cluster
from cgn_platform.space import Float, Prune, Space

HERE = Path(__file__).parent
SPACE = Space(
    base=Config(epochs=6, beta=70.0),
    dimensions={"alpha": Float(0, 1)},
    trials=10,
    prune=Prune("median", startup_trials=2, warmup_epochs=2),
)


def main(store: Path) -> None:
    pairs = runpy.run_path(str(HERE.parent / "conftest.py"))["make_pairs"]()
    splits = make_splits(pairs.label, pairs.patient_id, folds=3)
    with cluster.connect("local", num_cpus=2) as ray:
        from cgn_platform.sweep import run_sweep

        records = run_sweep(
            SPACE,
            pairs,
            splits,
            name="s",
            store=store,
            cluster=ray,
            resources=cluster.Resources(),
            console=Console(width=200),
            runner=runpy.run_path(str(HERE / "simulated.py"))["make"](),
        )
    told = [
        {
            "number": record.number,
            "state": record.state,
            "epochs": len(record.curve),
            "retry_of": record.facts.get("retry_of"),
        }
        for record in records
    ]
    print(json.dumps(told))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except CGNError as error:
        print(error)
