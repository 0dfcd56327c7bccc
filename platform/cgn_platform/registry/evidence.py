"""What is recorded with a model version: evidence, tags, description, model card."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cgn.data.pairs import Pairs
from cgn_platform import text
from cgn_platform.registry.gate import Verdict
from cgn_platform.registry.registry import Registry, Version
from cgn_platform.registry.selection import PromotionRequest, SelectedRow
from cgn_platform.report.facts import Facts, provenance_facts
from cgn_platform.report.templates import environment
from cgn_platform.store.ledger import Unit
from cgn_platform.store.out_of_fold import OutOfFold

RUN = ("command", "mode", "code", "git_commit", "when", "ledger")  # copied from the facts of the run


def candidate_evidence(
    selected: SelectedRow, pairs: Pairs, units: Sequence[Sequence[Unit]], measured: OutOfFold | None
) -> dict[str, Any]:
    """What a candidate is and what it achieved, as plain JSON. The keys are part of the stored format.

    Args:
        selected: the row to be promoted.
        pairs: the cache it ran on.
        units: those of the row that are intact.
        measured: its test predictions; None if a unit is missing or damaged.
    """
    facts, row = selected.facts, selected.row
    return {
        "candidate": {
            "name": facts["name"],
            "kind": facts["kind"],
            "row": row["name"],
            "seed": selected.seed,
            "seeds": facts["run"]["seeds"],
            "units": row["units"],
            "served": list(selected.served),
        },
        "config": _served_config(selected, units),
        "data": {
            **facts["data"],
            "views": _counted(pairs.view.tolist()),
            "sides": _counted(pairs.side.tolist()),
            "kinds": _counted([kind for kinds in pairs.kinds for kind in kinds]),
            "marked": sum(bool(boxes) for boxes in pairs.boxes),
        },
        "figures": _figures(selected, measured),
        "run": {name: facts["run"].get(name) for name in RUN},
    }


def add_decision(
    evidence: Facts,
    request: PromotionRequest,
    registry: Registry,
    champion: Version | None,
    verdict: Verdict,
) -> dict[str, Any]:
    """The evidence with the verdict of the gate and the decision that follows from it."""
    return {
        **evidence,
        "gate": {
            "demands": asdict(request.requirements),
            "passed": verdict.passed,
            "checks": verdict.plain(),
        },
        "champion": champion and {"version": champion.number, "key": champion.key},
        "decision": decision_facts(registry, request.alias, request.by, request.because),
    }


def decision_facts(registry: Registry, alias: str, by: str, because: str) -> dict[str, Any]:
    """Who decided about which alias, why, and with which code."""
    return {"model": registry.model, "alias": alias, "by": by, "because": because, **provenance_facts()}


def version_tags(key: str, evidence: Facts) -> dict[str, str]:
    """The tags of a version in MLflow: short. What the checks measured is in the artifact `evidence.json`."""
    candidate, data, figures, run = (evidence[name] for name in ("candidate", "data", "figures", "run"))
    checks = evidence["gate"]["checks"]
    tags = {
        "key": key,
        **{name: candidate[name] for name in ("name", "kind", "row", "seed")},
        "units": json.dumps(candidate["units"]),
        **{name: data[name] for name in ("cache", "splits")},
        **{name: run[name] for name in ("code", "git_commit")},
        **{name: evidence["decision"][name] for name in ("by", "because", "when")},
        "checks": f"{sum(check['passed'] for check in checks)} of {len(checks)} passed",
    }
    if "auc" in figures:
        tags["auc"] = text.interval(figures["auc"])
    return {f"cgn.{name}": str(value) for name, value in tags.items()}


def version_description(evidence: Facts) -> str:
    """The description of a version in MLflow, Markdown."""
    candidate, decision = evidence["candidate"], evidence["decision"]
    reason = f": {text.markdown(decision['because'])}" if decision["because"] else ""
    row, name = text.markdown(candidate["row"]), text.markdown(candidate["name"])
    paragraphs = [
        f"**{row}** of the {candidate['kind']} {name}, "
        f"{len(candidate['served'])} networks of seed {candidate['seed']}.",
        f"Promoted by {text.markdown(decision['by'])}{reason}.",
        "\n".join(f"- {text.markdown(check['words'])}" for check in evidence["gate"]["checks"]),
        "Not a medical device. See `model_card.md` and `evidence.json` among the files of the model.",
    ]
    return "\n\n".join(paragraphs)


def model_card(evidence: Facts) -> str:
    """The model card, Markdown: `dashboards/model_card.md.j2` filled with the evidence."""
    return (
        environment(html=False)
        .get_template("model_card.md.j2")
        .render(evidence=evidence, against_chance=text.against_chance)
    )


def _served_config(selected: SelectedRow, units: Sequence[Sequence[Unit]]) -> dict[str, Any]:
    """The configuration of the served units; a unit names weights by their content, not by their path."""
    for unit in (unit for seed in units for unit in seed):
        if unit.id == selected.served[0]:
            return dict(unit.identity.config)
    return dict(selected.row["config"])


def _figures(selected: SelectedRow, measured: OutOfFold | None) -> dict[str, Any]:
    winner = selected.winner
    figures: dict[str, Any] = {
        "cases": 0,
        "tried": selected.compared,
        "raw": winner and winner.raw,
        "corrected": winner and winner.corrected and winner.corrected._asdict(),
    }
    if measured is None:
        return figures
    error = measured.localization_error()
    return figures | {
        "cases": len(measured.label),
        "auc": measured.auc()._asdict(),
        "pooled_auc": measured.pooled_auc()._asdict(),
        "localization_error": error and error._asdict(),
    }


def _counted(values: Sequence[str]) -> list[str]:
    return [f"{value or 'unknown'} {count}" for value, count in Counter(values).most_common()]
