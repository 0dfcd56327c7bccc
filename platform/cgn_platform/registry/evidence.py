"""What is recorded with a model version: evidence, tags, description, card."""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cgn.data.pairs import Pairs
from cgn.provenance import code_fingerprint, code_version
from cgn.statistics import Interval
from cgn_platform.registry import gate
from cgn_platform.registry.record import now
from cgn_platform.registry.registry import CHAMPION, Facts, Registry, Version
from cgn_platform.report.templates import environment
from cgn_platform.store.out_of_fold import OutOfFold

RUN = ("command", "mode", "code", "git_commit", "when", "ledger")  # of a table's or sweep's run


@dataclass(frozen=True)
class PromotionRequest:
    """What is to be let in, as what, by whom and why."""

    row: str | None = None
    seed: int = 0
    alias: str = CHAMPION
    by: str = ""
    because: str = ""


def card(evidence: Facts) -> str:
    """The model card, Markdown: a function of the evidence."""
    return environment(html=False).get_template("model_card.md.j2").render(evidence=evidence)


def choice_of(facts: Facts, row: Facts) -> gate.Choice | None:
    """Of the winner of a sweep: its figures are those of the best of many."""
    if facts["kind"] != "sweep" or row is not facts["rows"][-1]:
        return None
    corrected = facts["corrected"]
    return gate.Choice(facts["raw"], corrected and Interval(**corrected))


def evidence_of(
    facts: Facts,
    row: Facts,
    asked: PromotionRequest,
    served: Sequence[str],
    pairs: Pairs,
    measured: OutOfFold | None,
) -> dict[str, Any]:
    """What a candidate is and shows, as plain JSON; what the gate says of it comes later."""
    choice = choice_of(facts, row)
    tried = [t for t in facts["trials"] if t["state"] == "complete"] if choice else facts["rows"]
    figures: dict[str, Any] = {
        "cases": 0,
        "tried": len(tried),
        "raw": choice and choice.raw,
        "corrected": choice and choice.corrected and choice.corrected._asdict(),
    }
    if measured:
        error = measured.localization_error()
        figures |= {
            "cases": len(measured.label),
            "auc": measured.auc()._asdict(),
            "pooled_auc": measured.pooled_auc()._asdict(),
            "localization_error": error and error._asdict(),
        }
    return {
        "candidate": {
            "name": facts["name"],
            "kind": facts["kind"],
            "row": row["name"],
            "seed": asked.seed,
            "seeds": facts["run"]["seeds"],
            "units": row["units"],
            "served": list(served),
        },
        "config": row["config"],
        "data": {
            **facts["data"],
            "views": _counted(pairs.view.tolist()),
            "sides": _counted(pairs.side.tolist()),
            "kinds": _counted([kind for kinds in pairs.kinds for kind in kinds]),
            "marked": sum(bool(boxes) for boxes in pairs.boxes),
        },
        "figures": figures,
        "run": {name: facts["run"].get(name) for name in RUN},
    }


def _counted(values: Sequence[str]) -> list[str]:
    return [f"{value or 'not told'} {count}" for value, count in Counter(values).most_common()]


def with_decision(
    evidence: Facts,
    asked: PromotionRequest,
    registry: Registry,
    champion: Version | None,
    demands: gate.Demands,
    verdict: gate.Verdict,
) -> dict[str, Any]:
    return {
        **evidence,
        "gate": {"demands": asdict(demands), "passed": verdict.passed, "checks": verdict.plain()},
        "champion": champion and {"version": champion.number, "key": champion.key},
        "decision": {
            "model": registry.model,
            "alias": asked.alias,
            "by": asked.by,
            "because": asked.because,
            "when": now(),
            "command": shlex.join(["cgn", *sys.argv[1:]]),
            "code": code_fingerprint(),
            "git_commit": code_version(),
        },
    }


def tags_of(key: str, evidence: Facts) -> dict[str, str]:
    candidate, data, figures, run = (evidence[name] for name in ("candidate", "data", "figures", "run"))
    tags = {
        "key": key,
        **{name: candidate[name] for name in ("name", "kind", "row", "seed")},
        "units": json.dumps(candidate["units"]),
        **{name: data[name] for name in ("cache", "splits")},
        **{name: run[name] for name in ("code", "git_commit")},
        **{name: evidence["decision"][name] for name in ("by", "because", "when")},
        "gate": json.dumps(evidence["gate"]["checks"]),
    }
    if "auc" in figures:
        tags |= {"auc": gate.told(Interval(**figures["auc"]))}
    return {f"cgn.{name}": str(value) for name, value in tags.items()}


def description_of(evidence: Facts) -> str:
    candidate, decision = evidence["candidate"], evidence["decision"]
    lines = [
        f"**{candidate['row']}** of the {candidate['kind']} {candidate['name']}, "
        f"{len(candidate['served'])} networks of seed {candidate['seed']}.",
        f"Promoted by {decision['by']}" + (f": {decision['because']}" if decision["because"] else "") + ".",
        *(f"- {check['words']}" for check in evidence["gate"]["checks"]),
        "Not a medical device. `model_card.md` and `evidence.json` lie beside the model.",
    ]
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:-1]) + "\n\n" + lines[-1]
