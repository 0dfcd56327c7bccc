"""Single runs in MLflow: what `cgn train --track` logs, without an outbox."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cgn.config import Config
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import PlatformError, first_line
from cgn.provenance import code_fingerprint, code_version
from cgn.results import CrossReport, CrossResult, facts_of, mean_losses
from cgn_platform.search.records import TrialRecord
from cgn_platform.store.layout import Store
from cgn_platform.tracking.events import RunInfo, now_ms
from cgn_platform.tracking.mlflow_client import default_uri
from cgn_platform.tracking.writer import open_writer

Training = tuple[Sequence[CrossReport], CrossResult, Sequence[Path]]
"""Epochs, result and files of a training."""


def log_training(
    config: Config,
    pairs: Pairs,
    splits: Sequence[Split],
    training: Training,
    store: Store,
    say: Callable[[str], None] = print,
) -> str:
    """Log a finished training: a parent run for configuration, data and folds, with one child run.

    Logging the same training again changes nothing. Returns the address of MLflow.

    Raises:
        PlatformError: MLflow cannot be written.
    """
    reports, result, files = training
    fingerprints = {"cache": pairs.fingerprint, "splits": splits_fingerprint(pairs.pair_id, splits)}
    folds = "-".join(str(fold.fold) for fold in result.folds)
    made_from = "/".join((config.fingerprint(), *fingerprints.values(), folds))
    parent = RunInfo(
        pairs.name,
        f"train {config.fingerprint()}",
        hashlib.sha256(made_from.encode()).hexdigest()[:16],
        tags={**fingerprints, "code": code_fingerprint(), "git_commit": code_version()},
    )
    facts: dict[str, Any] = facts_of(result)
    record = TrialRecord(
        number=0,
        state="complete",
        value=facts.pop("val_auc"),
        params={},
        curve={report.epoch: report.val_auc for report in reports},
        config=config,
        facts={
            **facts,
            "steps": [_step(report) for report in reports],
            "seconds": sum(fold.seconds for fold in result.folds),
        },
    )
    uri = default_uri(store)
    log_run(parent, record, files, store=store, uri=uri, say=say)
    return uri


def _step(report: CrossReport) -> dict[str, Any]:
    return {
        "epoch": report.epoch,
        "val_auc": report.val_auc,
        "folds": {fold.fold: fold.val_auc for fold in report.folds},
        "losses": mean_losses([fold.losses for fold in report.folds]),
        "seconds": sum(fold.seconds for fold in report.folds),
    }


def log_run(
    parent: RunInfo,
    record: TrialRecord,
    files: Sequence[Path],
    *,
    store: Store,
    uri: str,
    say: Callable[[str], None] = print,
) -> None:
    """One run that is over, with files as its artifacts, without an outbox: who ran it waits for it.

    Raises:
        PlatformError: MLflow cannot be written.
    """
    now = now_ms()
    about = {"kind": "artifact", "trial": record.number, "time": now}
    kept = [{**about, "path": str(file.absolute())} for file in files]
    try:
        projection = open_writer(uri, parent, store, say)
        projection.open(running=True)
        projection.settle([record], None, whole=True)  # where it stands already, nothing is told twice
        projection.apply(kept)
        projection.finish([record], "FINISHED", now)
    except Exception as error:  # whatever a server or its client does
        raise PlatformError(
            f"MLflow cannot be written ({first_line(error)}): start it, or leave out --track"
        ) from error
