from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgn.data.pairs import Pairs, Split
from cgn.errors import PlatformError
from cgn.results import CrossReport, CrossResult, EpochReport, FoldResult
from cgn_platform.store.layout import Store
from cgn_platform.tracking.links import WORKFLOW
from cgn_platform.tracking.mlflow_client import connect, default_uri
from cgn_platform.tracking.runs import Training, log_training


@pytest.fixture
def training(tmp_path: Path) -> Training:
    """Two folds of two epochs, and a figure."""
    scores: Any = np.zeros(0)
    nothing: Any = None
    reports = [
        CrossReport(
            epoch,
            value + 0.05,
            tuple(EpochReport(k, epoch, value + k / 10, {"l_cls": 0.3 + k}, 1.5, scores) for k in range(2)),
        )
        for epoch, value in enumerate((0.5, 0.6))
    ]
    folds = tuple(
        FoldResult(k, 1, 0.6 + k / 10, 0.7 + k / 10, np.nan, np.nan, nothing, 3.0, {}) for k in range(2)
    )
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"a picture")
    return reports, CrossResult(folds), [figure]


def test_a_training_is_a_parent_with_one_finished_run_and_its_files(
    tracked: Store, runs: Any, sweep: Any, training: Training, pairs: Pairs, splits: tuple[Split, ...]
) -> None:
    page = log_training(sweep.CONFIG, pairs, splits, training, tracked)
    assert page == f"#/experiments/1/runs/{sweep.run_ids(default_uri(tracked))['trial 0']}?{WORKFLOW}"
    shown = runs()
    name = f"train {sweep.CONFIG.fingerprint()}"
    assert {run: facts["status"] for run, facts in shown.items()} == {name: "FINISHED", "trial 0": "FINISHED"}
    run = shown["trial 0"]
    assert run["history"]["val_auc"] == [(0, 0.55), (1, 0.65)]
    assert run["history"]["fold_1/val_auc"] == [(0, 0.6), (1, 0.7)]
    assert run["history"]["l_cls"] == [(0, 0.8), (1, 0.8)]
    assert run["metrics"]["test_auc"] == pytest.approx(0.75)
    assert run["metrics"]["fold_1/test_auc"] == pytest.approx(0.8)
    assert run["metrics"]["seconds"] == 6.0
    assert "localization_error" not in run["metrics"]  # no lesion is annotated
    assert run["tags"]["cache"] == pairs.fingerprint
    (figure,) = tracked.mlflow_artifacts.rglob("figure.png")
    assert figure.read_bytes() == b"a picture"


def test_the_same_training_again_changes_nothing_and_another_is_another_parent(
    tracked: Store, runs: Any, sweep: Any, training: Training, pairs: Pairs, splits: tuple[Split, ...]
) -> None:
    log_training(sweep.CONFIG, pairs, splits, training, tracked)
    before = runs()
    log_training(sweep.CONFIG, pairs, splits, training, tracked)
    assert runs() == before
    other = replace(pairs, fingerprint="1" * 12)
    log_training(sweep.CONFIG, other, splits, training, tracked)
    _, client = connect(default_uri(tracked))
    found = client.search_runs(["1"])
    assert sorted(run.data.tags["cache"] for run in found if "cgn.study_id" in run.data.tags) == [
        pairs.fingerprint,
        other.fingerprint,
    ]


def test_mlflow_that_does_not_answer_is_an_error_with_a_remedy(
    tracked: Store,
    sweep: Any,
    training: Training,
    pairs: Pairs,
    splits: tuple[Split, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sweep.NOWHERE)
    with pytest.raises(
        PlatformError, match=r"^MLflow cannot be written \(.*: start the server.* or leave out --track$"
    ):
        log_training(sweep.CONFIG, pairs, splits, training, tracked)
