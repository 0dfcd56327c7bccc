"""A driver in its own process, to be killed: a sweep of simulated trials in a store.

    driver.py STORE ['{"space": {"trials": 6}, ...}']     JSON: arguments of `main`

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
from cgn_platform.cluster import connect
from cgn_platform.space import Float, Prune, Space
from cgn_platform.store.layout import Store

HERE = Path(__file__).parent


def space_of(
    base: Mapping[str, Any] | None = None,
    trials: int = 10,
    first: Sequence[Mapping[str, Any]] = (),
    rule: str = "median",
) -> Space:
    """The space: alpha, which decides the score of the simulated trainer, and all fields named in `first`."""
    names = {name for params in first for name in params} - {"alpha"}
    return Space(
        base=Config(**{"epochs": 6, "beta": 70.0, **(base or {})}),
        dimensions={"alpha": Float(0, 1)} | {name: Float(1e-5, 1e-1, log=True) for name in sorted(names)},
        trials=trials,
        first=first,
        prune=Prune(rule, startup_trials=2, warmup_epochs=2),
    )


def listeners_of(site: Any, console: Console) -> list[Any]:
    """The listeners of `cgn sweep`: MLflow, Prometheus and the terminal."""
    from cgn_platform.console.live import SweepConsole
    from cgn_platform.run.prometheus import SweepMetrics
    from cgn_platform.tracking.mlflow_client import default_uri
    from cgn_platform.tracking.tracker import Tracker

    def warn(line: str) -> None:
        console.print(line, markup=False)

    tracker = Tracker(site.store, default_uri(site.store), ledger=site.ledger, on_problem=warn)
    return [tracker, SweepMetrics(lambda: tracker.pending), SweepConsole(console)]


def main(
    store: Store,
    *,
    space: Mapping[str, Any] | None = None,
    address: str = "local",
    cache: str | None = None,
    ledger: str | None = None,
    checkpoint_every: int = 5,
    simulated: bool = True,
) -> None:
    """Run the sweep; the simulated trainer is slow while STORE/slow exists."""
    if cache is None:
        shared = runpy.run_path(str(HERE.parent / "conftest.py"))
        pairs, splits = shared["make_pairs"](), shared["make_thirds"]()
    else:
        pairs, splits = open_cache(cache), open_splits(cache)
    runner = None
    if simulated:
        runner = runpy.run_path(str(HERE / "simulated.py"))["make"](store.root / "slow")
    console = Console(width=200)
    with connect.connect(address, num_cpus=2 if address == "local" else None) as cluster:
        from cgn_platform.run.site import Site
        from cgn_platform.run.sweep import run_sweep
        from cgn_platform.store.ledger import Ledger

        site = Site(store, Ledger(ledger or store.units, checkpoint_every), cluster, runner=runner)
        listeners = listeners_of(site, console)
        try:
            records = run_sweep(
                space_of(**(space or {})), pairs, splits, name="s", site=site, listeners=listeners
            )
        except SystemExit:
            console.print("interrupted: run the same command again to resume")
            raise
    rows = [
        {
            "number": record.number,
            "state": record.state,
            "epochs": len(record.curve),
            "retry_of": record.facts.get("retry_of"),
        }
        for record in records
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    try:
        main(Store(Path(sys.argv[1])), **json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))
    except CGNError as error:
        print(error)
        sys.exit(2)
