"""What is recorded with a version: evidence, tags, description, model card."""

import re
from pathlib import Path
from typing import Any

import pytest

from cgn.data.pairs import Pairs
from cgn_platform.registry.evidence import (
    add_decision,
    candidate_evidence,
    model_card,
    version_description,
    version_tags,
)
from cgn_platform.registry.gate import Check, Verdict
from cgn_platform.registry.registry import Registry
from cgn_platform.registry.selection import PromotionRequest, select_row
from cgn_platform.registry.units import verify_units
from cgn_platform.store import out_of_fold
from cgn_platform.store.ledger import Ledger
from cgn_platform.text import measured_auc

REQUEST = PromotionRequest("good", by="ada", because="a test")


@pytest.fixture
def evidence(facts: dict[str, Any], pairs: Pairs, units: Path, registry: Registry) -> dict[str, Any]:
    selected = select_row(facts, pairs, REQUEST)
    opened, _ = verify_units(Ledger(units), selected.row["units"], facts["data"])
    undecided = candidate_evidence(selected, pairs, opened, out_of_fold.join(opened))
    return add_decision(
        undecided, REQUEST, registry, None, Verdict((Check("auc", True, "AUC: fine", 0.8, 0.5),))
    )


def test_the_card_shows_figures_data_limits_and_commands(evidence: dict[str, Any]) -> None:
    card = model_card(evidence)
    auc = evidence["figures"]["auc"]
    assert card.startswith("# cgn: good of three\n\n**Not a medical device.**")
    assert f"| test AUC, mean over folds | {measured_auc(auc)} |" in card
    for text in ("screening", "| pairs (malignant) | 24 (12) |", "`cgn table three.py`", "- AUC: fine"):
        assert text in card
    assert "decided by ada: a test." in card
    assert "\n\n\n" not in card


@pytest.mark.parametrize(
    ("figures", "run", "expected"),
    [
        ({"raw": 0.8, "corrected": {"estimate": 0.7, "low": 0.6, "high": 0.8}}, {}, "(BBC-CV) | 0.700 ["),
        ({"localization_error": None}, {}, "| no lesion is annotated |"),
        ({}, {"mode": "retuned"}, "It was tuned on validation folds"),
    ],
)
def test_every_variant_of_the_card_can_be_filled(
    evidence: dict[str, Any], figures: dict[str, Any], run: dict[str, Any], expected: str
) -> None:
    changed = {
        **evidence,
        "figures": {**evidence["figures"], **figures},
        "run": {**evidence["run"], **run},
        "data": {**evidence["data"], "name": "phantom", "kinds": []},
        "candidate": {**evidence["candidate"], "seeds": [0, 1], "kind": "sweep"},
    }
    card = model_card(changed)
    assert expected in card
    assert "trained on synthetic phantoms" in card
    assert "| kinds of finding | unknown |" in card
    assert "\n\n\n" not in card


def test_what_people_type_is_escaped_in_card_and_description(evidence: dict[str, Any]) -> None:
    hostile = "<img src=x onerror=alert(1)> | [x](http://evil.example)\n\n# Approved"
    decision = {**evidence["decision"], "because": hostile, "by": hostile}
    data = {**evidence["data"], "kinds": [hostile], "name": hostile}
    candidate = {**evidence["candidate"], "row": hostile, "name": hostile}
    changed = {**evidence, "decision": decision, "data": data, "candidate": candidate}
    for page in (model_card(changed), version_description(changed)):
        assert page.count("onerror") >= 4
        assert not re.search(r"(?<!\\)<img|(?<!\\)\]\(http|^# Approved", page, re.M)
    rows = [line for line in model_card(changed).splitlines() if line.startswith("| kinds")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3]


def test_tags_name_row_units_data_and_decision(evidence: dict[str, Any]) -> None:
    tags = version_tags("key", evidence)
    assert {name: tags[f"cgn.{name}"] for name in ("key", "name", "kind", "row", "seed", "by")} == {
        "key": "key", "name": "three", "kind": "table", "row": "good", "seed": "0", "by": "ada",
    }  # fmt: skip
    assert tags["cgn.auc"].startswith(f"{evidence['figures']['auc']['estimate']:.3f} [")
    assert tags["cgn.checks"] == "1 of 1 passed"
    assert "cgn.gate" not in tags  # JSON of any length is in the artifact evidence.json
    assert all(isinstance(value, str) for value in tags.values())


def test_the_description_lists_the_checks(evidence: dict[str, Any]) -> None:
    description = version_description(evidence)
    assert description.startswith(
        "**good** of the table three, 3 networks of seed 0.\n\nPromoted by ada: a test."
    )
    assert "\n\n- AUC: fine\n\n" in description
