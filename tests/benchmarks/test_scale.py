"""Many trials: the overhead of driver, Ray, Optuna, ledger and MLflow over training that needs no processor.

1,000 trials x 5 folds x 20 epochs on 16 logical CPUs, in about 12 minutes; another number of trials by
`CGN_BENCH_TRIALS`. Epochs are replayed, with their losses, from a cross-validation that is recorded first.
"""

import os
import runpy
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.datasets import phantom
from cgn.fit import cross_validate
from cgn_platform.cluster import connect
from cgn_platform.space import Float, Prune, Space
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("default"),  # third parties warn; what is measured here is time
]

TRIALS = int(os.environ.get("CGN_BENCH_TRIALS", "1000"))
SLOTS, EPOCHS, FOLD_EPOCH = 16, 20, 0.1  # seconds of a fold's epoch: ten seconds per trial
Server = runpy.run_path(str(Path(__file__).parents[1] / "platform" / "mlflow_server.py"))["Server"]


def replaying(recorded: list[Any], results: tuple[Any, ...]) -> Callable[..., Any]:
    """A runner that sleeps, then yields the recorded epochs, shifted by alpha."""
    seconds = FOLD_EPOCH

    def run(config: Any, _pairs: Any, split: Any, _device: str, _memory: Any) -> Iterator[Any]:
        shift = 0.02 * (config.alpha - 0.5)
        for report in recorded:
            time.sleep(seconds)
            epoch = report.folds[split.fold]
            yield replace(epoch, val_auc=min(1.0, epoch.val_auc + shift), seconds=seconds)
        return results[split.fold]

    return run


class Sampler(threading.Thread):
    """Records processor time and memory of this process after every hundred complete trials."""

    def __init__(self, complete: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._complete, self.ended = complete, threading.Event()
        self.rows: dict[int, tuple[float, float, float]] = {}  # trials: seconds, CPU seconds, MB

    def run(self) -> None:
        process, begin = psutil.Process(), time.perf_counter()
        first = sum(process.cpu_times()[:2])
        while not self.ended.wait(0.2):
            count = self._complete() // 100 * 100
            if count and count not in self.rows:
                used = sum(process.cpu_times()[:2]) - first
                self.rows[count] = (time.perf_counter() - begin, used, process.memory_info().rss / 1e6)


class Lines:
    """A file that counts the trials that a console prints."""

    def __init__(self) -> None:
        self.complete, self.first = 0, 0.0

    def write(self, text: str) -> int:
        if " started " in text and not self.first:
            self.first = time.perf_counter()
        self.complete += text.count(" complete ")
        return len(text)

    def flush(self) -> None:
        pass


def test_a_thousand_trials(
    tmp_path: Path, say: Callable[[str], None], monkeypatch: Any, listeners_of: Callable[..., Any]
) -> None:
    store = Store(tmp_path)
    report = write_cache("phantom", phantom.Options(pairs=40), Preprocessing(64), caches=store.caches)
    pairs, splits = open_cache(report.path), open_splits(report.path)
    config = Config(backbone="tiny", generator_blocks=1, epochs=EPOCHS, learning_rate=1e-3)
    recorded, run = [], cross_validate(config, pairs, splits)
    while True:
        try:
            recorded.append(next(run))
        except StopIteration as end:
            # Without networks: to unpickle one, each of 16 workers would import torch, 3 s of a processor.
            results = tuple(replace(fold, state={}) for fold in end.value.folds)
            break

    server = Server(tmp_path)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    lines = Lines()
    sampler = Sampler(lambda: lines.complete)
    try:
        with connect.connect("local", num_cpus=SLOTS) as cluster:
            from cgn_platform.run.site import Site
            from cgn_platform.run.sweep import run_sweep

            console = Console(file=lines, width=200)  # type: ignore[arg-type]
            site = Site(store, Ledger(store.units), cluster, runner=replaying(recorded, results))
            space = Space(config, {"alpha": Float(0, 1)}, TRIALS, prune=Prune("none"))
            listeners = listeners_of(site, console)
            sampler.start()
            records = run_sweep(space, pairs, splits, name="scale", site=site, listeners=listeners)
            sweep = time.perf_counter() - lines.first
            sampler.ended.set()
    finally:
        server.kill()

    assert sum(record.state == "complete" for record in records) == TRIALS
    assert len(Ledger(store.units).names()) == TRIALS * len(splits)
    trial = FOLD_EPOCH * EPOCHS * len(splits)
    minimum = trial * TRIALS / SLOTS
    say(f"{TRIALS} trials x {len(splits)} folds x {EPOCHS} epochs on {SLOTS} logical CPUs: {sweep:.0f} s")
    say(f"minimum {minimum:.0f} s, ratio {sweep / minimum:.2f} (goal 1.15)")
    warm = records[SLOTS:] or records  # by actors that have imported what they need
    over = statistics.fmean((record.ended - record.began) / 1000 - trial for record in warm)
    own = statistics.fmean(record.facts["seconds"] - trial for record in warm)
    say(f"overhead a trial {over:.2f} s with warm actors (goal 0.25), {own:.2f} of it in the worker")
    say(f"overhead a trial {sweep * SLOTS / TRIALS - trial:.2f} s of its slot, start and end of the sweep in")
    for count in sorted({min(sampler.rows, default=0), TRIALS // 2, TRIALS} & set(sampler.rows)):
        seconds, used, memory = sampler.rows[count]
        say(f"driver at {count} trials: {seconds:.0f} s, {used:.0f} CPU seconds, {memory:.0f} MB")
    assert sweep / minimum <= 1.15
