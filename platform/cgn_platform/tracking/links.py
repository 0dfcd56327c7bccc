"""Addresses in MLflow's UI, and how to open them."""

import os
import shlex
import sys
from pathlib import Path

from cgn_platform.store.databases import hidden
from cgn_platform.store.layout import Store
from cgn_platform.tracking.outbox import read_notes

WORKFLOW = "workflowType=machine_learning"
"""Without this, the UI opens an experiment as one about language models, on a page without runs."""
PAGE = f"#/experiments?{WORKFLOW}"


def runs_page(experiment: str, study_id: str) -> str:
    """The page that shows the child runs of a sweep or table side by side.

    MLflow reads its columns from the experiment's tag `mlflow.sharedViewState.STUDY_ID`.
    """
    return f"#/experiments/{experiment}/runs?viewStateShareKey={study_id}&{WORKFLOW}"


def run_page(experiment: str, run: str) -> str:
    """The page of a run."""
    return f"#/experiments/{experiment}/runs/{run}?{WORKFLOW}"


def report_page(experiment: str, run: str) -> str:
    """The page of a parent run's report among its artifacts."""
    return f"#/experiments/{experiment}/runs/{run}/artifacts/report.html?{WORKFLOW}"


def how_to_look(store: Store, uri: str, page: str = PAGE) -> str:
    """What a person types in a shell, or opens, to see the runs. No password is shown.

    Not `mlflow ui`: every account of the machine could write to the database while it runs.
    """
    if uri.startswith("http"):
        return f"{hidden(uri)}/{page}"
    words = [os.path.relpath(Path(sys.executable).with_name("cgn")), "mlflow"]
    if (folder := os.path.relpath(store)) != "runs":
        words += ["--store", folder]
    return f"{shlex.join(words)}\nand open http://127.0.0.1:5000/{page}"


def page_of(store: Store, name: str) -> str:
    """The page of the newest sweep or table of this name; all experiments if MLflow does not have it yet."""
    noted = [notes for folder in store.outboxes() if _study(notes := read_notes(folder)) == name]
    pages = [(notes["parent"]["time"], notes["page"]) for notes in noted if "page" in notes]
    return str(max(pages)[1]) if pages else PAGE


def is_tracked(store: Store, name: str) -> bool:
    """Whether a sweep or table of this name is in MLflow, or will be."""
    return any(_study(read_notes(folder)) == name for folder in store.outboxes())


def _study(notes: dict[str, dict[str, str]]) -> str | None:
    return notes["parent"]["study"] if "parent" in notes else None
