"""From the ledger to a server: packaged without a pickle, the same numbers by every way in."""

import base64
import contextlib
import csv
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cgn.config import Config
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.datasets import phantom
from cgn.data.films import FilmPair
from cgn.data.folds import splits_fingerprint
from cgn.errors import ConfigError, LedgerError, ModelError, UnreadableImageError
from cgn.fit import fit, last
from cgn_platform.cli import app
from cgn_platform.serving import package
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Identity, Ledger
from cgn_platform.tracking import mlflow_client

CONFIG = Config(backbone="tiny", generator_blocks=1, epochs=1, batch_size=4)
SECONDS = 180  # until a server must answer, also on a busy machine


class Trained:
    """A cache, the units of its folds, the model made of them, and the raw films as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_cache("phantom", phantom.Options(pairs=12), size=32, folds=3, out=folder / "cache")
        self.pairs, splits = open_cache(folder / "cache"), open_splits(folder / "cache")
        self.ledger = Ledger(folder / "units")
        named = {"splits": splits_fingerprint(self.pairs.pair_id, splits), "cache": self.pairs.fingerprint}
        self.units = []
        for config in (CONFIG, CONFIG.edit(alpha=0.3)):
            for split in splits:
                identity = Identity.of(config, split.fold, **named)
                last(
                    self.read_or_train(
                        ledger, identity, self.pairs, lambda _, s=split: fit(CONFIG, self.pairs, s)
                    )
                )
                self.units.append(identity.id)
        self.films = []
        for record in phantom.scan(phantom.Options(pairs=12), 32).records:
            target, reference, _ = record.load()
            pair = []
            for role, film in (("target", target), ("reference", reference)):
                path = folder / f"{record.pair_id}-{role}.png"
                full = np.left_shift(film.pixels, 16 - film.bits)
                path.write_bytes(cv2.imencode(".png", full)[1].tobytes())
                pair.append(path)
            self.films.append(tuple(pair))
        self.model = self.package(folder / "model", self.units[:3])

    def package(self, where: Path, units: list[str]) -> Path:
        return package.package(
            where, ledger=self.ledger, units=units, pairs=self.pairs, evidence={"gate": "passed"}
        )

    def told(self) -> list[dict]:
        """What the ensemble says of every pair."""
        with package.load(self.model, processes=1) as ensemble:
            said = ensemble.predict([FilmPair.of(*pair) for pair in self.films])
        return [each.facts() for each in said]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("serving"))


def test_a_model_loads_without_a_pickle_and_says_the_same(trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import pandas as pd

        model = mlflow.pyfunc.load_model(str(trained.model))
        rows = [{"target": t.read_bytes(), "reference": r.read_bytes()} for t, r in trained.films]
        table = model.predict(pd.DataFrame([*rows, {"target": b"no film", "reference": b"at all"}]))
        again = model.predict(package.example())
        for wrong in ({"target": str(trained.films[0][0])}, {"laterality": "left"}):
            with pytest.raises(mlflow.MlflowException, match=r"and no paths|must be L or R"):
                model.predict(pd.DataFrame([rows[0] | wrong]))
    expected = trained.told()
    assert table["p_malignant"].tolist()[:-1] == [each["p_malignant"] for each in expected]
    assert table[["x0", "y0", "x1", "y1"]].to_numpy()[:-1].tolist() == [list(e["box"]) for e in expected]
    assert table["p_malignant"].iloc[-1] is None
    assert json.loads(table["warnings"].iloc[-1])[0].startswith("truncated: the target")
    assert again["p_malignant"].between(0, 1).all()
    model.unwrap_python_model().close()


def test_a_model_directory_holds_no_pickle_and_tells_why_it_is_there(trained):
    names = {path.name for path in trained.model.rglob("*") if path.is_file()}
    assert names >= {"MLmodel", "served.py", "model.json", "fold_0.safetensors", "fold_1.safetensors"}
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth"))]
    assert json.loads((trained.model / package.EVIDENCE).read_text()) == {"gate": "passed"}
    facts = json.loads((trained.model / package.ENSEMBLE / "model.json").read_text())
    assert facts["made_from"]["units"] == dict(zip("012", trained.units, strict=False))
    assert facts["trained_on"]["dataset"] == "phantom"


def test_units_that_do_not_belong_together_are_refused(trained, tmp_path):
    with pytest.raises(ModelError, match="equal config"):
        trained.package(tmp_path / "a", [trained.units[0], trained.units[4]])
    with pytest.raises(ModelError, match=r"different folds but are of \[0, 0\]"):
        trained.package(tmp_path / "a", [trained.units[0], trained.units[0]])
    with pytest.raises(ModelError, match="one fold at least"):
        trained.package(tmp_path / "a", [])
    with pytest.raises(LedgerError, match="no unit"):
        trained.package(tmp_path / "a", ["f" * 24])
    with pytest.raises(ModelError, match="written once"):
        trained.package(trained.model, trained.units[:3])
    assert not list(tmp_path.iterdir())


def test_nothing_to_load_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="no model in"):
        package.load(tmp_path / "nothing")
    with pytest.raises(ModelError, match="no model at models:/cgn@champion"):
        package.load("models:/cgn@champion", store=Store(tmp_path))


def test_a_model_is_found_by_its_alias(trained, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=mlflow_client.default_uri(tmp_path))
        client.create_registered_model("cgn")
        version = client.create_model_version("cgn", str(trained.model))
        client.set_registered_model_alias("cgn", "champion", version.version)
        for where in ("models:/cgn@champion", "models:/cgn/1"):
            with package.load(where, store=Store(tmp_path)) as ensemble:
                assert ensemble.check() == 0


# ------------------------------------------------------------------------------------------- cgn predict


def run(*words):
    return CliRunner().invoke(app, ["predict", *map(str, words)], catch_exceptions=True)


def test_a_pair_at_the_prompt(trained, tmp_path):
    target, reference = trained.films[0]
    said = run("--model", trained.model, target, reference)
    (expected, *_) = trained.told()
    assert f"probability {expected['p_malignant']:.3f}, 3 folds" in said.stdout
    seen = tmp_path / "seen.png"
    told = run("--model", trained.model, target, target, "--side", "R", "--json", "--figure", seen)
    assert json.loads(told.stdout)["warnings"][0].startswith("same_side")
    assert seen.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_asked_is_one_line(trained, tmp_path):
    target, reference = trained.films[0]
    assert isinstance(run("--model", trained.model, target).exception, ConfigError)
    assert isinstance(run("--model", trained.model, target, reference, "--out", "x").exception, ConfigError)
    refused = run("--model", trained.model, target, tmp_path / "nothing.png").exception
    assert isinstance(refused, UnreadableImageError)
    assert str(refused).startswith("unreadable: the reference")


# ------------------------------------------------------------------------------------------------- batch


def table_of(trained, folder):
    """All films; one of the last pair is none, and one woman has one film."""
    path = folder / "films.csv"
    bad = folder / "bad.png"
    bad.write_bytes(b"no film")
    rows = []
    for number, (target, reference) in enumerate(trained.films):
        last_one = number == len(trained.films) - 1
        rows += [(target, number, "L"), (bad if last_one else reference, number, "R")]
    rows.append((trained.films[0][0].with_name("alone.png"), "alone", "L"))
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "patient", "laterality", "view", "label"])
        writer.writerows([image, f"w{patient}", side, "MLO", ""] for image, patient, side in rows)
    return path


def rows_of(out):
    tables = [pq.read_table(part).to_pylist() for part in sorted(out.glob("part-*.parquet"))]
    return {row["row"]: row for rows in tables for row in rows}


@pytest.mark.integration
@pytest.mark.usefixtures("ray")
def test_a_table_is_predicted_resumed_and_its_bad_rows_listed(trained, tmp_path, monkeypatch):
    table, out = table_of(trained, tmp_path), tmp_path / "out"
    inner = trained.model / package.ENSEMBLE
    from cgn_platform.serving import batch

    monkeypatch.setattr(batch, "BATCH", 8)
    heard = []
    told = batch.predict_table(
        table, out, inner, slots=1, on_progress=lambda done, total: heard.append((done, total))
    )
    assert (told.predicted, told.stood, told.quarantined) == (22, 0, 3)
    assert heard == [(done, 24) for done in range(1, 25)]
    with (out / "quarantine.csv").open() as stream:
        listed = {int(row["row"]): row["reason"] for row in csv.DictReader(stream)}
    assert listed == {23: "truncated", 24: "truncated", 25: "no_reference"}
    rows, expected = rows_of(out), trained.told()
    for number, each in enumerate(expected[:-1]):
        row = rows[2 * number + 1]
        assert row["p_malignant"] == pytest.approx(each["p_malignant"], abs=1e-6)
        assert row["box"] == pytest.approx(each["box"])
        assert row["reference_row"] == 2 * number + 2
    assert not [name for name in out.iterdir() if name.suffix == ".tmp"]

    parts = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    lost, damaged, *_ = sorted(parts)
    before = set(rows) - {row["row"] for path in (lost, damaged) for row in pq.read_table(path).to_pylist()}
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-100])
    said = []
    told = batch.predict_table(table, out, inner, slots=1, say=said.append)
    assert (told.predicted + told.stood, told.stood) == (22, len(before))
    assert len(said) == 1
    assert damaged.name in said[0]
    assert rows_of(out) == rows
    assert all(path.stat().st_mtime_ns == parts[path] for path in parts if path not in (lost, damaged))

    table.write_text(table.read_text().replace("w0", "w00"))
    with pytest.raises(ConfigError, match="another table"):
        batch.predict_table(table, out, inner, slots=1)


# ------------------------------------------------------------------------------------------------ server


@contextlib.contextmanager
def server(model: Path, folder: Path):
    """`mlflow models serve` on loopback, in a process group of its own that ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    quiet = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet, **path}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "server.log").read_text())
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask(port, "GET", "/ping")[0] == http.HTTPStatus.OK
    return False


def ask(port, method, where, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, where, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.integration
def test_a_server_answers_with_the_same_numbers(trained, tmp_path):
    with server(trained.model, tmp_path) as port:
        told = []
        for target, reference in trained.films[:3]:
            coded = [base64.b64encode(path.read_bytes()).decode() for path in (target, reference)]
            body = {"dataframe_split": {"columns": ["target", "reference"], "data": [coded]}}
            status, content = ask(port, "POST", "/invocations", json.dumps(body))
            assert status == http.HTTPStatus.OK, content
            told += json.loads(content)["predictions"]
        with package.load(trained.model, processes=1) as ensemble:
            said = [ensemble.predict([FilmPair.of(*pair)])[0].facts() for pair in trained.films[:3]]
        for row, each in zip(told, said, strict=True):
            assert row["p_malignant"] == each["p_malignant"]
            assert [row[name] for name in ("x0", "y0", "x1", "y1")] == list(each["box"])
            assert row["warnings"] == "[]"

        coded = base64.b64encode(b"no film").decode()
        body = {"dataframe_records": [{"target": coded, "reference": coded}]}
        status, content = ask(port, "POST", "/invocations", json.dumps(body))
        (refused,) = json.loads(content)["predictions"]
        assert status == http.HTTPStatus.OK
        assert refused["p_malignant"] is None
        assert "truncated" in refused["warnings"]

        named = {"dataframe_records": [{"target": str(target), "reference": str(reference)}]}
        status, content = ask(port, "POST", "/invocations", json.dumps(named))  # a path is no film here
        assert status != http.HTTPStatus.OK or json.loads(content)["predictions"][0]["p_malignant"] is None
        there = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN"]
        assert {each.laddr.ip for each in there if each.laddr.port == port} == {"127.0.0.1"}
