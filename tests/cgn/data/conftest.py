"""Small data sets and a key of pseudonyms for the tests of this package."""

import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import pytest


@pytest.fixture
def mias_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a small mini-MIAS; arguments as those of `write` in `mias_tree.py`."""
    tree = runpy.run_path(str(Path(__file__).parent / "datasets" / "mias_tree.py"))
    return partial(tree["write"], tmp_path / "raw")


@pytest.fixture(scope="session")
def same_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key file with the same key, and so the same pseudonyms, in every run."""
    path = tmp_path_factory.mktemp("key") / "key"
    path.touch(0o600)
    path.write_text("of the tests " * 3)
    return path


@pytest.fixture(scope="session", autouse=True)
def one_opencv_thread() -> None:
    cv2.setNumThreads(1)
