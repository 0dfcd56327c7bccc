"""One configuration in this process, without Ray: what `cgn train` does, through the ledger."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cgn.config import Config
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.figures import Snapshots, save
from cgn.fit import Images, fit, lockstep
from cgn.measure import PUBLISHED, check, measure_folds, summary, write_rows
from cgn.provenance import code_fingerprint, code_version
from cgn.results import CrossReport, CrossResult, FoldRun, facts_of, mean_losses
from cgn_platform import tracking
from cgn_platform.console import epoch_line, fold_table, measure_table
from cgn_platform.events import Parent
from cgn_platform.ledger import Identity, Ledger

PICTURED = 6  # test pairs of the first fold, spread over it


@dataclass(frozen=True)
class Wanted:
    """What is made of a run beside its figures.

    Attributes:
        figures: a folder for Fig. 4 to 6.
        measure: a JSON file for the distances of Sec. IV-F.
        track: whether MLflow gets the run, with these files.
    """

    figures: Path | None = None
    measure: Path | None = None
    track: bool = False


def train(
    config: Config,
    pairs: Pairs,
    splits: Sequence[Split],
    *,
    fold: int | None = None,
    device: str = "cpu",
    store: Path,
    ledger: Ledger,
    wanted: Wanted,
    console: Console,
) -> CrossResult:
    """Train the folds, or one of them, in lockstep; print epochs and results. Raises what training raises."""
    if wanted.measure:
        check(config)
    asked = tuple(splits) if fold is None else (splits[fold],)
    console.print(
        f"{pairs.name}: {len(pairs)} pairs, {len(asked)} folds; configuration {config.fingerprint()}"
    )
    images = Images(pairs, device)
    named = {"cache": pairs.fingerprint, "splits": splits_fingerprint(pairs.pair_id, splits)}
    watched = _watched(config, images, asked[0]) if wanted.figures else None

    def run(split: Split) -> FoldRun:
        if watched and split is asked[0]:
            return fit(config, images, split, memory=watched)  # its epochs must be seen, not read
        identity = Identity.of(config, split.fold, **named)
        return ledger.remembered(identity, pairs, lambda memory: fit(config, images, split, memory=memory))

    reports, running = [], lockstep([run(split) for split in asked], config.epochs)
    while True:
        try:
            report = next(running)
        except StopIteration as end:
            result: CrossResult = end.value
            break
        reports.append(report)
        console.print(epoch_line(report, config.epochs), highlight=False, soft_wrap=True)
    console.print(fold_table(result.folds))

    written: list[Path] = []
    if wanted.figures and watched:
        for name, figure in watched.figures(result.folds[0]).items():
            written.append(wanted.figures / f"{name}.png")
            save(figure, written[-1])
        console.print(f"figures in {wanted.figures}", highlight=False)
    if wanted.measure:
        columns = measure_folds(config, images, result.folds)
        write_rows(columns, wanted.measure)
        written.append(wanted.measure)
        console.print(measure_table(summary(columns), PUBLISHED))
    if wanted.track:
        uri = tracking.default_uri(store)
        _log(config, pairs.name, named, reports, result, written, store, uri, console)
        console.print(f"to look at in MLflow: {tracking.how_to_look(uri)}", soft_wrap=True, highlight=False)
    return result


def _watched(config: Config, images: Images, split: Split) -> Snapshots:
    count = min(PICTURED, len(split.test))
    return Snapshots(config, images, split.test[[i * len(split.test) // count for i in range(count)]])


def _log(
    config: Config,
    dataset: str,
    named: Mapping[str, str],
    reports: Sequence[CrossReport],
    result: CrossResult,
    files: Sequence[Path],
    store: Path,
    uri: str,
    console: Console,
) -> None:
    """One parent run a configuration, data and set of folds, one child; the same again changes neither."""
    from cgn_platform.study import TrialRecord

    folds = "-".join(str(fold.fold) for fold in result.folds)
    made_from = "/".join((config.fingerprint(), *named.values(), folds))
    name = f"train {config.fingerprint()}"
    parent = Parent(
        dataset,
        name,
        hashlib.sha256(made_from.encode()).hexdigest()[:16],
        tags={**named, "code": code_fingerprint(), "git_commit": code_version()},
    )
    steps = [_step(report) for report in reports]
    facts: dict[str, Any] = facts_of(result)
    seconds = sum(fold.seconds for fold in result.folds)
    record = TrialRecord(
        number=0,
        state="complete",
        value=facts.pop("val_auc"),
        params={},
        curve={report.epoch: report.val_auc for report in reports},
        config=config,
        facts={**facts, "steps": steps, "seconds": seconds},
    )
    tracking.log_run(parent, record, files, store=store, uri=uri, say=console.print)


def _step(report: CrossReport) -> dict[str, Any]:
    return {
        "epoch": report.epoch,
        "val_auc": report.val_auc,
        "folds": {fold.fold: fold.val_auc for fold in report.folds},
        "losses": mean_losses([fold.losses for fold in report.folds]),
        "seconds": sum(fold.seconds for fold in report.folds),
    }
