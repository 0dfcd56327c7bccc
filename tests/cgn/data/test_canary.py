"""No identity gets into a cache: canaries are planted wherever an identity can be, and searched for."""

import csv
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cgn.data.breast import Preprocessing
from cgn.data.cache import open_cache, write_cache
from cgn.data.datasets import manifest
from cgn.data.folds import SplitPlan

dicoms = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "dicoms.py")))

CANARY = re.compile(rb"c\W*a\W*n\W*a\W*r\W*y|(?<![\d.])9173\d{4}(?!\d)|2\.25\.9173", re.IGNORECASE)
"""Planted words, dates and UIDs all match this."""

NAMES = [
    "PatientName",
    "PatientID",
    "OtherPatientNames",
    "PatientAddress",
    "PatientMotherBirthName",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "AccessionNumber",
    "StudyID",
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "StationName",
    "DeviceSerialNumber",
    "PatientComments",
    "ImageComments",
    "AdditionalPatientHistory",
    "RequestedProcedureDescription",
    "MedicalRecordLocator",
    "EthnicGroup",
    "Occupation",
    "PatientTelephoneNumbers",
    "IssuerOfPatientID",
    "Manufacturer",
]
DATES = ["PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"]
UIDS = ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"]


def planted(woman: int) -> dict:
    item = Dataset()
    item.add_new("PatientID", "LO", f"CANARY item {woman}")
    return {
        **{name: f"CANARY {woman}" for name in NAMES if name != "AccessionNumber"},
        "AccessionNumber": f"CANARY{woman}",
        **dict.fromkeys(DATES, f"9173{woman + 101:04d}"),
        **{name: f"2.25.9173{woman}{number}" for number, name in enumerate(UIDS)},
        "OtherPatientIDsSequence": Sequence([item]),
    }


def film(path: Path, woman: int, side: str, *, spoil: bool = False) -> None:
    stored = dicoms.breast(side, seed=2 * woman + (side == "L"))
    tags = planted(woman) | {"ImageLaterality": side, "ViewPosition": "CC"}
    dicoms.write(path, stored, **({**tags, "Rows": 4000} if spoil else tags))
    from pydicom import dcmread

    dataset = dcmread(path)
    dataset.private_block(0x0099, "CANARY creator", create=True).add_new(1, "LO", "CANARY private")
    dataset.save_as(path)


@pytest.fixture
def table(tmp_path):
    """Twelve women whose films, folders and table are full of canaries; two films are spoilt."""
    raw = tmp_path / "canary raw"
    raw.mkdir()
    rows = []
    for woman in range(12):
        folder = raw / f"Canary_Mary_{woman}"
        folder.mkdir()
        for side in "LR":
            path = folder / f"canary-{woman}-{side}.dcm"
            film(path, woman, side, spoil=(woman, side) in ((3, "L"), (4, "R")))
            label = "normal" if side == "R" else ("malignant" if woman % 2 else "benign")
            rows.append(
                [path.relative_to(raw), f"Mary Canary {woman}", side, "CC", label, f"9173{woman:04d}"]
            )
    absent = [Path("Canary_Mary_0") / "canary-gone.dcm", "Mary Canary 99", "L", "CC", "benign", "91730099"]
    with (raw / "canary.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["image", "patient", "laterality", "view", "label", "study"], *rows, absent]
        )
    return raw / "canary.csv"


def sightings(folder: Path) -> list[str]:
    """Files below a folder with a canary in their names or contents; Parquet is decompressed."""
    paths = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder)).encode()
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += repr(pq.read_table(path).to_pylist()).encode()
        if CANARY.search(name) or CANARY.search(content):
            paths.append(str(path))
    return paths


def test_a_canary_would_be_seen(table):
    assert len(sightings(table.parent)) == 25


@pytest.fixture
def key(tmp_path, monkeypatch):
    monkeypatch.setenv("CGN_KEY_FILE", str(tmp_path / "key"))


def test_no_identity_gets_into_a_cache(table, tmp_path, key, capfd):
    store = tmp_path / "store"
    report = write_cache(
        "manifest", manifest.Options(file=table), Preprocessing(32), SplitPlan(3), caches=store / "cache"
    )
    assert report.counts["cached"] == 10
    assert {(r.role, r.reason) for r in report.rejected} == {
        ("target", "truncated"),
        ("reference", "truncated"),
        ("healthy", "truncated"),
    }
    assert all(r.film.startswith("film-") for r in report.rejected)
    assert all(r.pair_id.startswith("film-" if r.role == "healthy" else "pair-") for r in report.rejected)
    pairs = open_cache(report.path)
    assert len(pairs.healthy) == 11
    assert all(name.startswith("film-") for name in pairs.healthy.film_id)
    assert all(name.startswith("patient-") for name in pairs.healthy.patient_id)
    assert all(name.startswith("patient-") for name in pairs.patient_id)
    assert all(name.startswith("study-") for name in pairs.study_id)
    assert len({p.name for p in store.rglob("*") if p.is_file()}) >= 4  # cache, quarantine and lock
    assert sightings(store) == []
    assert not CANARY.search("".join(capfd.readouterr()).encode())
    assert not CANARY.search(repr(report).replace(str(tmp_path), "").encode())


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_no_identity_leaves_a_whole_workflow(table, tmp_path):
    """Cache, training and a sweep with MLflow: nothing in the store, nothing on the terminal."""
    store = tmp_path / "store"
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "CGN_KEY_FILE": str(tmp_path / "key"), "CGN_STORE": str(store)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    output = []

    def cgn(*arguments: object, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cgn_platform.cli", *map(str, arguments)],
            env=environment,
            cwd=work,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == code, done.stderr
        output.append(done.stdout + done.stderr)
        return done.stdout

    printed = cgn("cache", "manifest", "--file", table, "--size", 32, "--folds", 3, code=2)
    (cache,) = {line for line in printed.splitlines() if line.startswith(str(store))}
    small = ("--set", "backbone=tiny", "--set", "generator_blocks=1", "--set", "epochs=1")
    cgn("train", "--data", cache, *small)
    space = Path(__file__).parents[3] / "search_spaces" / "smoke.py"
    cgn("sweep", space, "--data", cache, "--trials", 2, *small)
    assert (store / "mlflow.db").is_file()
    assert sightings(store) == []
    assert sightings(work) == []
    assert not CANARY.search("".join(output).replace(str(tmp_path), "").encode())
