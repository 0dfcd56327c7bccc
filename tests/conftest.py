"""Small pairs in memory, for tests that train."""

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn_platform.cluster.connect import prepare_local

prepare_local()  # test modules import Ray while they are collected, in whatever order

# Small networks gain nothing from more threads, and threads that wait spin. Said to torch by its variable:
# drivers that tests start read this file for its pairs, and most of them need no torch.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell starts background jobs with Ctrl-C ignored, and so would be the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    import torch


def make_pairs(n: int = 24, size: int = 32, seed: int = 0, *, counterfactual: bool = True) -> Pairs:
    """Noise with a bright square on malignant targets: learnable, and in a known place."""
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 100, (n, size, size), dtype=np.uint8)
    truth = np.clip(reference + rng.integers(0, 20, reference.shape), 0, 255).astype(np.uint8)
    target, label = truth.copy(), np.arange(n) % 2
    target[label == 1, 8:20, 10:22] = 255
    ids = np.array([f"pair-{i:03d}" for i in range(n)])
    crop = np.tile([0, 0, size, size], (n, 1))
    return Pairs(
        name="squares",
        fingerprint="0" * 12,
        pair_id=ids,
        patient_id=ids,
        study_id=ids,
        view=np.array(["MLO"] * n),
        side=np.array(["L"] * n),
        label=label,
        kinds=[("mass",)] * n,
        boxes=[((10.0, 8.0, 22.0, 20.0),) if y else () for y in label],
        reference_has_lesion=np.zeros(n, bool),
        target=target,
        reference=reference,
        counterfactual=truth if counterfactual else None,
        target_crop=crop,
        reference_crop=crop,
    )


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    return make_pairs()


def make_thirds() -> tuple[Split, ...]:
    """Three folds of eight; without scikit-learn, which a driver would import for seconds."""
    blocks = np.arange(24).reshape(3, 8)
    return tuple(
        Split(k, train=blocks[(k + 2) % 3], val=blocks[(k + 1) % 3], test=blocks[k]) for k in range(3)
    )


@pytest.fixture(scope="session")
def splits() -> tuple[Split, ...]:
    return make_thirds()


@pytest.fixture
def tiny() -> Config:
    return Config(backbone="tiny", generator_blocks=1, epochs=2, batch_size=4, learning_rate=1e-3)


@pytest.fixture
def features() -> "Callable[..., torch.Tensor]":
    """Random float64 features: `features(seed, b, c, h, w)`."""
    import torch

    def make(seed: int, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return make


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until a condition holds, and give what it returned; fail after this many seconds."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"the condition did not hold within {seconds:g} s")
        time.sleep(0.02)
    return result


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """`until(condition, seconds=120)`: the one way in which tests wait."""
    return wait_until
