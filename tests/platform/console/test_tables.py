"""Tables at the widths of terminals: nothing is cut, and the least important columns are left out first."""

from io import StringIO
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from rich.console import Console

from cgn.measure import PUBLISHED
from cgn_platform.console.tables import measure_table, models_table, table_of, table_text, units_table

NAMES = [
    ("AdaIN-GAN", "×", "Feedback"),
    ("AdaIN-GAN", "✓", "Non-feedback"),
    ("AdaIN-GAN", "✓", "Feedback"),
]
VERDICT = "not significant (p = 0.125 after correction)"
INTERVAL = {"estimate": 0.675, "low": 0.55, "high": 0.8}


def facts() -> dict[str, Any]:
    rows = [
        {
            "name": " / ".join(cells),
            "cells": cells,
            "published": dict.fromkeys("abcd", 0.9),
            "complete": True,
            "auc": INTERVAL,
            "difference": INTERVAL,
            "words": VERDICT,
            "seconds": 1234.5,
            "tuned": None,
        }
        for cells in NAMES
    ]
    return {
        "title": "Table III",
        "header": ("Bilateral", "Negative embedding", "Feedback"),
        "rows": rows,
        "baseline": rows[-1]["name"],
        "detectable": None,
        "data": {"name": "mias-all", "pairs": 90, "folds": 5},
        "run": {"mode": "shared", "resources": {"gpus": 0, "cpus": 1}},
    }


def shown(table: Any, width: int) -> str:
    console = Console(width=width, record=True, force_terminal=False, file=StringIO())
    console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    return text


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_row_names_and_verdicts_are_whole_at_every_width(width: int) -> None:
    text = shown(table_of(facts(), width), width)
    for cells in NAMES:
        assert any(all(cell in line for cell in cells) for line in text.splitlines())
    assert text.count("0.675 [0.550, 0.800]") == len(NAMES)
    for word in VERDICT.split():
        assert text.count(word) >= len(NAMES)
    assert ("0.900" in text) == (width == 160)


def test_in_a_pipe_a_row_is_a_line_of_cells() -> None:
    text = table_text(facts())
    comments = [line for line in text.splitlines() if line.startswith("# ")]
    assert comments[0] == "# Table III on mias-all: 90 pairs, 5 folds"
    assert any("95 % interval over patients" in line for line in comments)
    lines = [line.split("\t") for line in text.splitlines()[len(comments) :]]
    assert lines[0][:4] == ["Bilateral", "Negative embedding", "Feedback", "AUC here"]
    assert [tuple(line[:3]) for line in lines[1:]] == NAMES
    assert {line[5] for line in lines[1:]} == {VERDICT}


def test_pandas_reads_what_a_pipe_gets() -> None:
    table = facts()
    table["rows"][0]["words"] = "a verdict with #"
    frame = pandas.read_csv(StringIO(table_text(table)), sep="\t", comment="#")
    assert list(frame["AUC here"]) == ["0.675 [0.550, 0.800]"] * 3
    assert frame.shape == (3, 7)
    assert list(frame["Feedback"]) == [cells[2] for cells in NAMES]


@pytest.mark.parametrize("width", [80, 120])
def test_units_and_models_are_whole(width: int) -> None:
    identity = SimpleNamespace(
        config={"method": "cgn", "backbone": "resnet50", "bilateral": "adain_gan", "seed": 0, "epochs": 40},
        fold=1,
    )
    result = {"val_auc": 0.7, "test_auc": 0.6, "seconds": 1234.5}
    unit: Any = SimpleNamespace(
        id="0123456789abcdef", identity=identity, facts={"result": result}, outdated=""
    )
    text = shown(units_table([unit], {"fedcba9876543210": 7}, width), width)
    for cell in ("0123456789abcdef", "fedcba9876543210", "7 so far", "0.700", "0.600"):
        assert cell in text
    tags = {
        "name": "table_3-mias-all",
        "row": " / ".join(NAMES[1]),
        "auc": "0.675",
        "when": "2026-11-28T10:00",
        "by": "me",
    }
    version: Any = SimpleNamespace(
        number="3", aliases=["champion"], tags={f"cgn.{name}": value for name, value in tags.items()}
    )
    text = shown(models_table([version], width), width)
    for word in ("champion", "table_3-mias-all", "Non-feedback", "0.675"):
        assert word in text


def test_measurements_are_compared_by_ratio_because_published_ones_have_another_scale() -> None:
    means = {"target_reference": 0.5, "target_counterfactual": 50.0, "truth_ratio": 21.6}
    out = StringIO()
    Console(file=out, width=120).print(measure_table(means, PUBLISHED))
    cells = {
        line.split("\u2502")[1].strip(): line.split("\u2502")[2:6]
        for line in out.getvalue().splitlines()
        if "\u2502" in line
    }
    assert [cell.strip() for cell in cells["target counterfactual"]] == ["50.000", "100", "25.42", "0.453"]
    assert [cell.strip() for cell in cells["truth ratio"]] == ["21.600", "", "", ""]
    assert "features of another scale: compare ratios" in " ".join(out.getvalue().split())
