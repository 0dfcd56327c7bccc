"""A driver in a process of its own, to be killed: ten simulated trials in the store that it is given.

    driver.py STORE ['{"trials": 6, ...}']     what else it is told is JSON: see `main`

Prints what `cgn sweep` prints and, last, the study as one line of JSON.
"""

import json
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cgn.config import Config
from cgn.data.cache import open_cache, open_splits
from cgn.errors import CGNError
from cgn_platform.cluster import connect, resources
from cgn_platform.space import Float, Prune, Space

HERE = Path(__file__).parent


def space_of(
    base: Mapping[str, Any] | None = None,
    trials: int = 10,
    first: Sequence[Mapping[str, Any]] = (),
    rule: str = "median",
) -> Space:
    """What is searched: alpha, which is the score of the simulated trainer, and all that `first` names."""
    free = {name for params in first for name in params} - {"alpha"}
    return Space(
        base=Config(**{"epochs": 6, "beta": 70.0, **(base or {})}),
        dimensions={"alpha": Float(0, 1)} | {name: Float(1e-5, 1e-1, log=True) for name in sorted(free)},
        trials=trials,
        first=first,
        prune=Prune(rule, startup_trials=2, warmup_epochs=2),
    )


def main(
    store: Path,
    *,
    space: Mapping[str, Any] | None = None,
    address: str = "local",
    cache: str | None = None,
    simulated: bool = True,
    **options: Any,
) -> None:
    """Options are those of `run_sweep`; the simulated trainer is slow while STORE/slow exists."""
    if cache is None:
        made = runpy.run_path(str(HERE.parent / "conftest.py"))
        pairs, splits = made["make_pairs"](), made["make_thirds"]()
    else:
        pairs, splits = open_cache(cache), open_splits(cache)
    with connect.connect(address, num_cpus=2 if address == "local" else None) as ray:
        from cgn_platform.run.sweep import run_sweep

        records = run_sweep(
            space_of(**(space or {})),
            pairs,
            splits,
            name="s",
            store=store,
            cluster=ray,
            resources=resources.Resources(),
            console=Console(width=200),
            runner=runpy.run_path(str(HERE / "simulated.py"))["make"](store.root / "slow")
            if simulated
            else None,
            **options,
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
        main(Path(sys.argv[1]), **json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))
    except CGNError as error:
        print(error)
        sys.exit(2)
