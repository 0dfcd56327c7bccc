"""A table of films is predicted in parts, resumed after losses, and its unusable rows are listed."""

import csv
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet as pq
import pytest

from cgn.data.identity.pseudonym import open_pseudonyms
from cgn.errors import ConfigError
from cgn_platform.serving.origin import ENSEMBLE

PREDICTED, QUARANTINED = 22, {23: "truncated", 24: "truncated", 25: "no_reference"}


def write_table(trained: Any, folder: Path) -> Path:
    """All films; the last reference cannot be read, and one woman has a single film."""
    path = folder / "films.csv"
    bad = folder / "bad.png"
    bad.write_bytes(b"no film")
    rows = []
    for number, (target, reference) in enumerate(trained.films):
        last = number == len(trained.films) - 1
        rows += [(target, number, "L"), (bad if last else reference, number, "R")]
    rows.append((trained.films[0][0].with_name("alone.png"), "alone", "L"))
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "patient", "laterality", "view", "label"])
        writer.writerows([image, f"w{patient}", side, "MLO", ""] for image, patient, side in rows)
    return path


def rows_of(out: Path) -> dict[int, dict[str, Any]]:
    tables = [pq.read_table(part).to_pylist() for part in sorted(out.glob("part-*.parquet"))]
    return {row["row"]: row for rows in tables for row in rows}


def quarantine_of(out: Path) -> dict[int, str]:
    with (out / "_quarantine.csv").open() as stream:
        return {int(row["row"]): row["reason"] for row in csv.DictReader(stream)}


@pytest.mark.integration
@pytest.mark.usefixtures("ray")
def test_a_table_is_predicted_resumed_and_its_unusable_rows_listed(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cgn_platform.serving import batch

    monkeypatch.setattr(batch, "BATCH", 8)
    monkeypatch.setenv("CGN_KEY_FILE", str(tmp_path / "pseudonym.key"))
    table, out, model = write_table(trained, tmp_path), tmp_path / "out", trained.model / ENSEMBLE
    progress = []
    result = batch.predict_table(
        table, out, model, slots=1, on_progress=lambda done, total: progress.append((done, total))
    )
    assert (result.predicted, result.existing, result.quarantined) == (PREDICTED, 0, len(QUARANTINED))
    assert progress == [(done, 24) for done in range(1, 25)]
    assert quarantine_of(out) == QUARANTINED
    rows = rows_of(out)
    for number, expected in enumerate(trained.predictions()[:-1]):
        row = rows[2 * number + 1]
        assert row["p_malignant"] == pytest.approx(expected["p_malignant"], abs=1e-6)
        assert row["box"] == pytest.approx(expected["box"])
        assert row["reference_row"] == 2 * number + 2
    assert not [name for name in out.iterdir() if name.suffix == ".tmp"]

    frame = pandas.read_parquet(out)  # the folder, with whatever else lies in it
    assert sorted(frame["row"]) == sorted(rows)
    with table.open(newline="") as stream:
        films = list(csv.DictReader(stream))
    pseudonyms = open_pseudonyms()
    for row in rows.values():
        film = films[row["row"] - 1]
        assert (row["side"], row["view"]) == (film["laterality"], film["view"])
        assert row["patient_id"] == pseudonyms.of("patient", film["patient"])
        assert row["pair_id"] == pseudonyms.of("pair", film["image"])

    times = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    lost, damaged, *_ = sorted(times)
    remaining = set(rows) - {
        row["row"] for path in (lost, damaged) for row in pq.read_table(path).to_pylist()
    }
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-100])
    warnings: list[str] = []
    result = batch.predict_table(table, out, model, slots=1, warn=warnings.append)
    assert (result.predicted + result.existing, result.existing) == (PREDICTED, len(remaining))
    (warning,) = warnings
    assert damaged.name in warning
    assert rows_of(out) == rows
    assert all(path.stat().st_mtime_ns == times[path] for path in times if path not in (lost, damaged))

    for name in ("model", "manifest.sha256", "quarantine.csv"):  # as earlier versions wrote them
        (out / f"_{name}").rename(out / name)
    for part in out.glob("part-*"):
        old = pq.read_table(part).drop_columns(["pair_id", "patient_id", "side", "view"])
        pq.write_table(old, part, write_page_checksum=True)
    result = batch.predict_table(table, out, model, slots=1)
    assert (result.predicted, result.existing) == (0, PREDICTED)
    assert rows_of(out) == rows
    assert len(pandas.read_parquet(out)) == PREDICTED

    table.write_text(table.read_text().replace("w0", "w00"))
    with pytest.raises(ConfigError, match="another table"):
        batch.predict_table(table, out, model, slots=1)
