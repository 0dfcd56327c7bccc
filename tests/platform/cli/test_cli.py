"""The command line as people meet it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from rich.console import Console

from cgn.data.breast import Preprocessing
from cgn.data.cache import write_cache
from cgn.data.contact_sheet import enlargement
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan
from cgn.errors import CacheError
from cgn_platform import cli
from cgn_platform.cli.options import announce_ray, report_command
from cgn_platform.store.layout import Store
from cgn_platform.tracking.mlflow_client import connect

ROOT = Path(__file__).parents[3]
TABLE = str(ROOT / "search_spaces" / "table_3.py")
SMOKE = str(ROOT / "search_spaces" / "smoke.py")


class Told(NamedTuple):
    code: int
    out: str
    err: str


Cgn = Callable[..., Told]


@pytest.fixture
def cgn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cgn:
    """`cgn ...` in this process, at the root of the repository, in a clean environment."""
    for name in [name for name in os.environ if name.startswith(("CGN_", "RAY_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> Told:
        monkeypatch.setattr("sys.argv", ["cgn", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Told(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = phantom.Options(pairs=24, seed=0)
    return write_cache(
        "phantom", options, Preprocessing(48), SplitPlan(3), caches=tmp_path_factory.mktemp("store") / "cache"
    ).path


@pytest.mark.parametrize(
    "arguments",
    [
        ("sweep", SMOKE, "--data", "CACHE", "--name", "../../x"),
        ("table", TABLE, "--data", "CACHE", "--name", "a/b"),
        ("sweep", "MY FILE", "--data", "CACHE"),
        ("report", "../../x"),
        ("promote", "../../x"),
    ],
)
def test_names_that_are_paths_are_refused_and_nothing_is_written(
    cgn: Cgn, cache: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    file = tmp_path / "my file.py"
    shutil.copy(SMOKE, file)
    words = {"CACHE": str(cache), "MY FILE": str(file)}
    told = cgn(*(words.get(word, word) for word in arguments), "--store", str(tmp_path / "a" / "b"))
    assert told.code == 2
    assert told.err.count("\n") == 1
    assert "must consist of at most 200 letters" in told.err
    assert ("give a --name" in told.err) == ("MY FILE" in arguments)
    assert list(tmp_path.iterdir()) == [file]


def test_help_comes_at_once_and_teaches(cgn: Cgn) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cgn_platform.cli", "--help"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    for heavy in ("torch", "ray", "mlflow", "optuna", "numpy", "pydantic"):
        assert not re.search(rf"\| +{heavy}$", told.stderr, re.MULTILINE)
    assert "cgn cache phantom" in told.stdout
    for verb in ("cache", "train", "sweep", "up", "down"):
        assert verb in told.stdout
    assert "cgn sweep search_spaces/alpha_beta.py" in cgn("sweep", "--help").out


def test_options_of_a_dataset_are_those_of_its_module(cgn: Cgn, tmp_path: Path) -> None:
    told = cgn("cache", "mias", "--help").out
    for name in ("--raw", "--cohort", "--size", "--folds", "--out"):
        assert name in told
    asked = ("cache", "phantom", "--pairs", "12", "--size", "32", "--folds", "3", "--store", str(tmp_path))
    made = cgn(*asked)
    folder = Path(made.out.strip().splitlines()[-1])
    assert folder.is_absolute()
    assert (folder / "manifest.json").is_file()
    assert "cached 12" in made.out
    assert "nothing to do" in cgn(*asked).out


def test_training_prints_epochs_and_folds(cgn: Cgn, cache: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)  # more only fight each other where the machine is shared
    edits = [f"--set={edit}" for edit in ("backbone=tiny", "generator_blocks=1", "epochs=1", "batch_size=8")]
    edits += ["--store", str(tmp_path)]
    told = cgn("train", "--data", str(cache), *edits)
    assert told.code == 0
    assert "epoch   1 of 1  val AUC" in told.out
    assert "mean" in told.out
    assert (
        "1 fold in lockstep, 1 epoch, on phantom: 24 pairs"
        in cgn("train", "--data", str(cache), "--fold", "1", *edits).out
    )
    assert cgn("train", "--data", str(cache), "--fold", "3").code == 2


def test_a_fold_is_drawn_and_measured(cgn: Cgn, cache: Path, tmp_path: Path) -> None:
    """Fig. 4 to 6 of the first fold, and Sec. IV-F: each test pair by the fold that did not see it."""
    torch.set_num_threads(1)
    drawn = tmp_path / "[" / "b]"  # Rich would take "[/b]" for markup, and raise
    edits = [f"--set={edit}" for edit in ("backbone=tiny", "generator_blocks=1", "epochs=1", "batch_size=8")]
    asked = ("--store", str(tmp_path), "--figures", str(drawn))
    asked += ("--measure", str(tmp_path / "rows.json"))
    told = cgn("train", "--data", str(cache), *edits, *asked)
    assert told.code == 0, told.err
    assert sorted(path.name for path in drawn.iterdir()) == [
        "fig4.png",
        "fig5.png",
        "fig6.png",
    ]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert sorted(row["index"] for row in rows) == list(range(24))
    assert "56.15" in told.out
    assert "truth ratio" in told.out
    untrained = cgn("train", "--data", str(cache), "--set=bilateral=sbf", *asked)
    assert untrained.code == 2
    assert "only a method that generates counterfactual features" in untrained.err


def test_the_prior_is_tested_where_healthy_pairs_are_known(cgn: Cgn) -> None:
    told = cgn("bilateral", "phantom", "--pairs", "12", "--size", "48", "--set", "backbone=tiny")
    assert told.code == 0, told.err
    assert "tiny, weights none, seed 0" in told.out
    assert "mias, phantom" in cgn("bilateral", "inbreast", "--raw", ".").err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cache", "nix"], "no dataset 'nix': take one of"),
        (["cache", "mias", "--raw", "{empty}", "--store", "{store}"], "Info.txt"),
        (["cache", "phantom", "--pairs", "0", "--store", "{store}"], "pairs: Input should be greater"),
        (["sweep", "nix.py", "--data", "{cache}", "--store", "{store}"], "no search space at nix.py"),
        (["sweep", "{typo}", "--data", "{cache}", "--store", "{store}"], "did you mean 'alpha'?"),
        (["sweep", SMOKE, "--data", "{empty}", "--store", "{store}"], "no cache at"),
        (["sweep", SMOKE, "--data", "{cache}", "--store", "{store}", "--set", "nix=3"], "no field 'nix'"),
        (["sweep", SMOKE, "--data", "{cache}", "--store", "{store}", "--set", "epochs"], "FIELD=VALUE"),
        (["sweep", SMOKE, "--data", "{cache}", "--store", "{store}", "--set", "backbone=vgg"], "take one of"),
        (["sweep", SMOKE, "--data", "{cache}", "--store", "{store}", "--gpus", "1.5"], "--gpus above 1"),
        (["train", "--data", "{empty}"], "no cache at"),
        (["train", "--data", "nowhere", "--set", "backbone=vgg"], "take one of"),
        (["train", "--data", "{cache}", "--fold", "9"], "--fold must lie in [0, 2]"),
        (["train", "--data", "{cache}", "--set", "epoch=3"], "did you mean 'epochs'?"),
        (["predict", "{cache}/a.png", "{cache}/b.png"], "no film at"),
        (["predict", "--manifest", "{cache}/nix.csv", "--out", "{store}"], "no table of films at"),
        (["models", "--store", "{store}"], "no models in the store"),
        (["table", SMOKE, "--data", "{cache}", "--store", "{store}"], "run 'cgn sweep"),
        (["sweep", TABLE, "--data", "{cache}", "--store", "{store}"], "run 'cgn table"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    cgn: Cgn, arguments: Sequence[str], told: str, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "typo.py").write_text(
        "from cgn.config import Config\nfrom cgn_platform.space import *\n"
        "SPACE = Space(Config(), {'alhpa': Float(0, 1)}, trials=1)\n"
    )
    places = {"cache": cache, "empty": tmp_path / "empty", "typo": tmp_path / "typo.py"}
    store = tmp_path / "s"
    done = cgn(*[argument.format(**places, store=store) for argument in arguments])
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert told in done.err
    assert not store.exists()


def test_debug_shows_where_a_mistake_comes_from(cgn: Cgn) -> None:
    with pytest.raises(CacheError):
        cgn("--debug", "train", "--data", "nowhere")


def test_a_job_asks_for_paths_that_outlive_its_folder(
    cgn: Cgn, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = os.path.relpath(cache, ROOT)
    assert "--fold must lie" in cgn("train", "--data", relative, "--fold", "9").err  # a shell resolves it
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    told = cgn("sweep", SMOKE, "--data", relative, "--store", str(tmp_path))
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "--data must be an absolute path or a storage URI in a job" in told.err
    told = cgn("sweep", SMOKE, "--data", str(cache))
    assert "--store must be an absolute path in a job" in told.err


def test_down_where_nothing_is_up(cgn: Cgn, tmp_path: Path) -> None:
    assert cgn("down", "--store", str(tmp_path)) == (0, f"no servers are running for {tmp_path}\n", "")


def test_looking_draws_the_pairs_that_were_asked_for(cgn: Cgn, cache: Path, tmp_path: Path) -> None:
    import cv2

    picture = tmp_path / "pairs.png"
    told = cgn("look", "--data", str(cache), "--pairs", "4", str(picture))
    assert (told.code, told.out) == (0, f"4 of 24 pairs in {picture}; the cache has 72 healthy films too\n")
    # Two rows of two pairs, enlarged: target, reference and truth below a caption; then the legend.
    side = 48 * enlargement(48)
    height, width = cv2.imread(str(picture)).shape[:2]
    assert width == 2 * 3 * side
    assert height > 2 * side


def test_healthy_films_are_counted_and_can_be_left_out(cgn: Cgn, tmp_path: Path) -> None:
    phantoms = ("cache", "phantom", "--pairs", "6", "--size", "32", "--folds", "3", "--store", str(tmp_path))
    told = cgn(*phantoms)
    assert "healthy films 18" in told.out
    without = cgn(*phantoms, "--no-healthy")
    assert (without.code, "healthy films" in without.out) == (0, False)
    assert told.out.splitlines()[-1] != without.out.splitlines()[-1]
    assert "--no-healthy" in cgn("cache", "phantom", "--help").out
    assert "--no-healthy" not in cgn("bilateral", "phantom", "--help").out


def test_a_truncated_film_costs_one_pair_and_is_one_line(tmp_path: Path) -> None:
    """In a process of its own: decoders write past Python's standard error."""
    import cv2
    import numpy as np

    row, column = np.mgrid[:1024, :1024]
    breast = np.where((column / 700) ** 2 + ((row - 512) / 480) ** 2 < 1, 120, 0).astype(np.uint8)
    lines = []
    for number in range(1, 17):  # eight women, the left side (odd) with a lesion
        film = breast + np.random.default_rng(number).integers(0, 9, breast.shape, np.uint8)
        film = film if number % 2 == 0 else np.ascontiguousarray(film[:, ::-1])
        cv2.imwrite(str(tmp_path / f"mdb{number:03d}.png"), film)
        lesion = f"CIRC {'BM'[number // 2 % 2]} 500 500 30"
        lines.append(f"mdb{number:03d} G {lesion if number % 2 else 'NORM'}")
    (tmp_path / "Info.txt").write_text("\n".join(["prose", *lines]) + "\n")
    broken = tmp_path / "mdb003.png"
    broken.write_bytes(broken.read_bytes()[:-100])

    arguments = (
        "mias",
        "--raw",
        str(tmp_path),
        "--size",
        "32",
        "--folds",
        "3",
        "--store",
        str(tmp_path / "s"),
    )
    told = subprocess.run(
        [sys.executable, "-m", "cgn_platform.cli", "cache", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert "1 truncated mdb003: target film: mdb003.png: the file is truncated" in " ".join(
        told.stdout.split()
    )
    (path,) = (line for line in told.stdout.splitlines() if line.startswith(str(tmp_path)))
    from cgn.data.cache import open_cache

    assert list(open_cache(path).pair_id) == [f"mdb{n:03d}" for n in range(1, 17, 2) if n != 3]


def test_units_are_listed_shown_and_verified(cgn: Cgn, cache: Path, tmp_path: Path) -> None:
    """`cgn train` keeps what it finished: the second time nothing is trained."""
    torch.set_num_threads(1)
    edits = [f"--set={edit}" for edit in ("backbone=tiny", "generator_blocks=1", "epochs=1", "batch_size=8")]
    at = ("--store", str(tmp_path))
    command = ("train", "--data", str(cache), *edits, *at)
    first = cgn(*command).out
    assert cgn(*command).out == first
    assert "3 finished, 0 interrupted" in cgn("units", *at).out
    unit = min((tmp_path / "units").iterdir())
    assert json.loads(cgn("units", unit.name[:8], *at).out)["id"] == unit.name
    assert "3 of 3 units are undamaged" in cgn("units", "--verify", *at).out
    (unit / "curve.parquet").write_bytes(b"PAR1")
    damaged = cgn("units", "--verify", *at)
    assert damaged.code == 2
    assert f"curve.parquet of unit {unit.name} is damaged" in damaged.err
    assert "is damaged" in cgn(*command).out
    assert "3 of 3 units are undamaged" in cgn("units", "--verify", *at).out
    assert "no unit begins with zz" in cgn("units", "zz", *at).err


@pytest.mark.integration
def test_a_run_with_its_pictures_stands_in_mlflow_once(cgn: Cgn, cache: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    edits = [f"--set={edit}" for edit in ("backbone=tiny", "generator_blocks=1", "epochs=2", "batch_size=8")]
    extras = ("--figures", str(tmp_path / "f"), "--measure", str(tmp_path / "m.json"), "--track")
    for _ in range(2):
        told = cgn("train", "--data", str(cache), *edits, "--store", str(tmp_path), *extras)
        assert told.code == 0, told.err
    assert "to view this run in MLflow" in told.out
    page = told.out.split("/#", 1)[1].strip()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    there = connect(uri)[1]
    runs = there.search_runs([there.get_experiment_by_name("phantom").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * 2
    (trial,) = (run for run in runs if "test_auc" in run.data.metrics)
    assert (
        page
        == f"/experiments/{trial.info.experiment_id}/runs/{trial.info.run_id}?workflowType=machine_learning"
    )
    assert [point.step for point in there.get_metric_history(trial.info.run_id, "fold_1/val_auc")] == [0, 1]
    kept = {item.path for item in there.list_artifacts(trial.info.run_id)}
    assert kept == {path.name for path in (tmp_path / "f").iterdir()} | {"m.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "{cache}", "--set", "backbone=vgg"], "take one of"),
        (["train", "--data", "{cache}", "--fold", "9"], "--fold must lie in"),
        (["sweep", SMOKE, "--data", "{cache}", "--set", "backbone=vgg"], "take one of"),
        (["table", TABLE, "--data", "{cache}", "--set", "backbone=vgg"], "take one of"),
        (["promote", "tried", "--row", "11", "--store", "{store}"], "--row must be one of 1 = default"),
        (["predict", "{cache}/a.png", "{cache}/b.png"], "no film at"),
        (["predict", "--manifest", "{cache}/nix.csv", "--out", "{store}"], "nix.csv"),
    ],
)
def test_a_mistake_is_found_before_anything_heavy_is_imported(
    arguments: Sequence[str], message: str, cache: Path, tmp_path: Path
) -> None:
    report = Store(tmp_path).report("tried")
    report.folder.mkdir(parents=True)
    facts = {"format": 1, "kind": "sweep", "name": "tried", "rows": [{"name": "default"}]}
    report.facts.write_text(json.dumps(facts))
    command = [argument.format(cache=cache, store=tmp_path) for argument in arguments]
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cgn_platform.cli", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert message in answer.stderr
    for heavy in ("torch", "ray", "mlflow"):
        assert not re.search(rf"\| +{heavy}$", answer.stderr, re.MULTILINE)


def test_the_next_command_names_what_the_user_named() -> None:
    assert report_command("t", "runs/cache/a b", Path("runs"), None) == "cgn report t --data 'runs/cache/a b'"
    assert (
        report_command("t", "c", Path("/s"), "s3://b") == "cgn report t --data c --store /s --ledger s3://b"
    )


def test_what_takes_long_is_announced_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    announce_ray("local")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(
        "cgn_platform.console.live.make_console", lambda stderr: Console(stderr=stderr, force_terminal=True)
    )
    announce_ray("local")
    announce_ray("10.0.0.1:6379")
    output = capsys.readouterr()
    assert output.out == ""
    assert "starting Ray on this machine (10 to 30 seconds)" in output.err
    assert "joining 10.0.0.1:6379" in output.err


def test_setup_says_how_long_it_takes() -> None:
    plan = subprocess.run(
        ["make", "--no-print-directory", "-n", "-B", "setup"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert plan.startswith("echo 'installing the pinned packages into .venv: about 4 minutes")


def test_the_version_and_a_near_verb(cgn: Cgn) -> None:
    answer = cgn("--version")
    assert (answer.code, answer.out.split()[0]) == (0, "cgn")
    assert "Did you mean 'sweep'" in cgn("sweeep").err
