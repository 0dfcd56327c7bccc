"""Where to look at a sweep or table in MLflow."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgn_platform.store.layout import Store
from cgn_platform.tracking.outbox import Outbox
from cgn_platform.tracking.writer import WORKFLOW

if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    pass


PAGE = f"#/experiments?{WORKFLOW}"


def how_to_look(uri: str, page: str = PAGE) -> str:
    """What a person types or opens to see the runs."""
    if uri.startswith("http"):
        return f"{uri}/{page}"
    mlflow = os.path.relpath(Path(sys.executable).with_name("mlflow"))
    return f"{mlflow} ui --backend-store-uri {uri}\nand open http://127.0.0.1:5000/{page}"


def page_of(store: Store, name: str) -> str:
    """Where the runs of this sweep or table stand side by side; all experiments where MLflow was away."""
    told = (Outbox(folder).notes for folder in store.outboxes())
    pages = [(each["parent"]["time"], each["page"]) for each in told if _named(each, name) and "page" in each]
    return str(max(pages)[1]) if pages else PAGE


def is_tracked(store: Store, name: str) -> bool:
    """Whether a sweep or table of this name was told to MLflow, or is to be."""
    return any(_named(Outbox(folder).notes, name) for folder in store.outboxes())


def _named(told: Mapping[str, Any], name: str) -> bool:
    return "parent" in told and told["parent"]["study"] == name
