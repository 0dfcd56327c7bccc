"""Single finished runs in MLflow (`cgn train --track`), without an outbox."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cgn.config import Config
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import PlatformError, first_line
from cgn.provenance import code_fingerprint, code_version
from cgn.results import CrossReport, CrossResult, facts_of
from cgn_platform.remedies import remedy_of
from cgn_platform.search.records import TrialRecord
from cgn_platform.store.layout import Store
from cgn_platform.tracking.events import RunInfo, epoch_facts, now_ms
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
    warn: Callable[[str], None] = print,
) -> str:
    """Log a finished training: a parent run for configuration, data and folds, with one child run.

    Logging the same training again changes nothing.

    Args:
        config: of the training.
        pairs: the data.
        splits: all folds, including those that were not trained.
        training: what was trained.
        store: contains MLflow's database, if no server is named.
        warn: called with a line about what MLflow rejects.

    Returns:
        The page of the run in MLflow's UI.

    Raises:
        PlatformError: MLflow cannot be written.
    """
    reports, result, files = training
    fingerprints = {"cache": pairs.fingerprint, "splits": splits_fingerprint(pairs.pair_id, splits)}
    folds = "-".join(str(fold.fold) for fold in result.folds)
    identity = "/".join((config.fingerprint(), *fingerprints.values(), folds))
    parent = RunInfo(
        pairs.name,
        f"train {config.fingerprint()}",
        hashlib.sha256(identity.encode()).hexdigest()[:16],
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
            "steps": [epoch_facts(report) for report in reports],
            "seconds": sum(fold.seconds for fold in result.folds),
        },
    )
    uri = default_uri(store)
    return log_run(parent, record, files, store=store, uri=uri, warn=warn)


def log_run(
    parent: RunInfo,
    record: TrialRecord,
    files: Sequence[Path],
    *,
    store: Store,
    uri: str,
    warn: Callable[[str], None] = print,
) -> str:
    """Log one finished run, with files as its artifacts; return its page. The caller waits for MLflow.

    Raises:
        PlatformError: MLflow cannot be written.
    """
    try:
        writer = open_writer(uri, parent, store, warn)
        writer.open(running=True)
        writer.reconcile([record], whole=True)  # points that MLflow has are not sent again
        writer.log_files(record.number, files)
        writer.finish([record], "FINISHED", now_ms())
        return writer.child_page(record.number)
    except PlatformError:
        raise
    except Exception as error:  # a server and its client may raise anything
        raise PlatformError(
            f"MLflow cannot be written ({first_line(error)})",
            remedy=f"{remedy_of(error) or 'solve this problem'}, or leave out --track",
        ) from error
