"""Ctrl-C, as a real signal to a real process, at several moments of a command."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cgn.data.breast import Preprocessing
from cgn.data.cache import write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan

ROOT = Path(__file__).parents[3]
SETTINGS = ("--set", "backbone=tiny", "--set", "generator_blocks=1", "--set", "epochs=10000")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "cache"
    return write_cache(
        "phantom", phantom.Options(pairs=24), Preprocessing(48), SplitPlan(3), caches=folder
    ).path


def interrupt(arguments: Sequence[str], moment: str, number: int = signal.SIGINT) -> tuple[int, str]:
    """Send a signal once the command has printed this; return its exit code and all that it printed."""
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")]),
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "cgn_platform.cli", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if moment in line:
                process.send_signal(number)
                break
        lines += process.stdout
        code = process.wait(60)
    finally:
        process.kill()
        process.wait()
    return code, "".join(line for line in lines if not line.startswith("import time:"))


@pytest.mark.parametrize("moment", ["| typer", "cgn.data.cache_files", "| torch", "epoch   1 of"])
def test_ctrl_c_during_imports_and_training_is_one_line(moment: str, cache: Path, tmp_path: Path) -> None:
    arguments = ("train", "--data", str(cache), "--store", str(tmp_path), *SETTINGS)
    code, output = interrupt(arguments, moment)
    assert code == 130
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("interrupted: finished folds and checkpoints are kept")
    assert output.splitlines()[-1].endswith(f"cgn {' '.join(arguments)}")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("number", "word", "code"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)]
)
def test_a_sweep_stores_its_trials_before_it_ends(
    number: int, word: str, code: int, cache: Path, tmp_path: Path
) -> None:
    search = str(ROOT / "search_spaces" / "smoke.py")
    arguments = ("sweep", search, "--data", str(cache), "--store", str(tmp_path), "--set", "epochs=10000")
    end, output = interrupt(arguments, "started", number)
    assert end == code
    assert "Traceback" not in output
    assert f"{word}: finished trials and folds are kept, and the same command resumes: cgn sweep" in output


@pytest.mark.integration
def test_ctrl_c_while_ray_starts_ends_its_servers(cache: Path, tmp_path: Path) -> None:
    search = str(ROOT / "search_spaces" / "table_5.py")
    arguments = ("table", search, "--data", str(cache), "--store", str(tmp_path), *SETTINGS)
    code, output = interrupt(arguments, "| ray")
    assert code == 130
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("interrupted: finished folds are kept")
