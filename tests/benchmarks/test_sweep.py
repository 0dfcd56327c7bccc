"""A sweep with Ray, Optuna and MLflow against the same trials in a bare loop.

Ten trials; another number by `CGN_BENCH_TRIALS`.
"""

import os
import time

import pytest
import torch
from rich.console import Console

from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.datasets import phantom
from cgn.fit import cross_validate, last
from cgn_platform.cluster import connect
from cgn_platform.space import Float, Prune, Space
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("default"),  # third parties warn; what is measured here is time
]

SPACE = Space(
    base=Config(backbone="tiny", generator_blocks=4, epochs=10, learning_rate=1e-3),
    dimensions={"alpha": Float(0, 1)},
    trials=int(os.environ.get("CGN_BENCH_TRIALS", "10")),
    prune=Prune("none"),
)


def test_sweep_against_a_bare_loop(tmp_path, say, listeners_of):
    """One trial at a time on one thread, both ways; at most 1.15 times the loop's wall time."""
    store = Store(tmp_path)
    report = write_cache("phantom", phantom.Options(pairs=60), Preprocessing(96), caches=store.caches)
    pairs, splits = open_cache(report.path), open_splits(report.path)
    with connect.connect("local", num_cpus=1) as cluster:
        from cgn_platform.run.site import Site
        from cgn_platform.run.sweep import run_sweep

        site = Site(store, Ledger(store.units), cluster)
        listeners = listeners_of(site, Console(quiet=True))
        start = time.perf_counter()
        records = run_sweep(SPACE, pairs, splits, name="bench", site=site, listeners=listeners)
        swept = time.perf_counter() - start

    torch.set_num_threads(1)
    start = time.perf_counter()
    results = [last(cross_validate(record.config, pairs, splits)) for record in records]
    bare = time.perf_counter() - start
    assert [record.value for record in records] == [result.val_auc for result in results]
    ratio = swept / bare
    say(
        f"sweep of {len(records)} trials x {len(splits)} folds x {SPACE.base.epochs} epochs: {swept:.1f} s, "
        f"bare loop {bare:.1f} s, ratio {ratio:.2f} (goal 1.15)"
    )
    assert ratio <= 1.15
