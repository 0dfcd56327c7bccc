"""Who is in: the MLflow Model Registry, what is let into it, and the way back.

    MLflow, model `cgn`          a version a row and seed; aliases champion, challenger, previous
    MLflow, `promotions`         a run a decision: the gate's figures, evidence, and the version's files
    store/promotions.jsonl       a line a decision, refusals too; it outlives MLflow

A version is made from units of the ledger, and is known by them: promoting the same again finds it. All of
it (files, tags) is there before it has a number, it has a number before an alias points at it, and `previous`
is set before `champion` moves; so whoever was killed in between runs the same command again.
"""

import getpass
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cgn.data.pairs import Pairs
from cgn.errors import CGNError, ConfigError, ModelError, RegistryError
from cgn_platform.registry import gate
from cgn_platform.registry.evidence import (
    PromotionRequest,
    card,
    choice_of,
    description_of,
    evidence_of,
    tags_of,
    with_decision,
)
from cgn_platform.registry.record import (
    PROMOTED,
    REFUSED,
    ROLLED_BACK,
    append_record,
    now,
    one_decision_at_a_time,
    read_record,
)
from cgn_platform.registry.registry import CHALLENGER, CHAMPION, FOLDER, PREVIOUS, Facts, Registry, Version
from cgn_platform.store import out_of_fold
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger


@dataclass(frozen=True)
class Outcome:
    """What became of it. `action` is empty where it stood already; `before` is who was in."""

    action: str
    alias: str
    checks: Sequence[gate.Check] = ()
    version: str | None = None
    before: str | None = None

    @property
    def refused(self) -> bool:
        """Nothing was changed."""
        return self.action == REFUSED


def promote(
    facts: Facts,
    pairs: Pairs,
    asked: PromotionRequest,
    *,
    store: Store,
    registry: Registry,
    ledger: Ledger,
    demands: gate.Demands,
) -> Outcome:
    """Judge a row of a table, or a sweep's winner, and let it in if it passes.

    Args:
        facts: that the table or sweep wrote down of itself.
        pairs: the cache it ran on.
        asked: which row, as what.
        store: keeps the record and the lock.
        registry: lets in.
        ledger: has the units.
        demands: of the gate.

    Raises:
        ConfigError: no such row or seed, or another cache.
        RegistryError: MLflow fails, or somebody else changed the champion meanwhile.
    """
    if asked.alias not in (CHAMPION, CHALLENGER):
        raise ConfigError(f"--as must be {CHAMPION} or {CHALLENGER} but got {asked.alias!r}")
    if pairs.fingerprint != facts["data"]["cache"]:
        raise ConfigError(
            f"--data must be the cache {facts['data']['cache']}, which {facts['name']} ran on, "
            f"but is {pairs.fingerprint}"
        )
    row = row_of(facts, asked.row)
    served = _served(facts, row, asked.seed)
    key = hashlib.sha256(json.dumps([row["units"], served]).encode()).hexdigest()[:24]
    with one_decision_at_a_time(store), tempfile.TemporaryDirectory(prefix="cgn-promote-") as scratch:
        champion, there = registry.with_alias(CHAMPION), registry.with_units(key)
        if there and asked.alias in there.aliases:
            _finish(store, registry, there, asked)
            return Outcome("", asked.alias, version=there.number)
        units, faults = gate.verified(ledger, row["units"], facts["data"])
        measured = None if faults else out_of_fold.join(units)
        evidence = evidence_of(facts, row, asked, served, pairs, measured)
        for unit in (unit for seed in units for unit in seed if unit.id == served[0]):
            evidence["config"] = dict(unit.identity.config)  # names weights by their content, not by a path
        folder, reload = None, None
        if there:
            folder, reload = _again(registry, there.number, Path(scratch))
        elif measured:
            folder, reload = _packaged(Path(scratch) / FOLDER, ledger, served, pairs, evidence)
        candidate = gate.Candidate(
            units=sum(len(seed) for seed in row["units"]),
            faults=faults,
            measured=measured,
            choice=choice_of(facts, row),
            reload=reload,
        )
        verdict = gate.judge(candidate, _champion(champion, ledger) if champion else None, demands)
        evidence = with_decision(evidence, asked, registry, champion, demands, verdict)
        tags = tags_of(key, evidence)
        name = f"{facts['name']}: {row['name']}"
        if not verdict.passed or folder is None:
            append_record(store, REFUSED, evidence, None, champion)
            registry.log_decision(name, {**tags, "cgn.state": REFUSED}, evidence)
            return Outcome(REFUSED, asked.alias, verdict.checks)
        if there:
            registry.set_tags(there.number, tags)
        else:
            (folder / "evidence.json").write_text(json.dumps(evidence, indent=1) + "\n")
            (folder / "model_card.md").write_text(card(evidence))
            run = registry.log_decision(name, {**tags, "cgn.state": PROMOTED}, evidence, folder)
            there = registry.create_version(run, tags, description_of(evidence))
            _, kept = _again(registry, there.number, Path(scratch))
            if not (check := gate.reloaded(kept)).passed:
                raise RegistryError(
                    f"version {there.number} of {registry.model} was not kept as it was written "
                    f"({check.words}): no alias was moved; delete it in MLflow, mend where MLflow keeps "
                    "files and run the same command again"
                )
        _point(registry, asked.alias, there, champion)
        append_record(store, PROMOTED, evidence, there, champion)
        before = champion.number if champion and asked.alias == CHAMPION else None
        return Outcome(PROMOTED, asked.alias, verdict.checks, there.number, before)


def rollback(*, store: Store, registry: Registry, by: str, because: str) -> Outcome:
    """Make the previous champion the champion again, if it still predicts its probe to the bit.

    Raises:
        RegistryError: there is none, or MLflow fails.
    """
    with one_decision_at_a_time(store), tempfile.TemporaryDirectory(prefix="cgn-rollback-") as scratch:
        champion, previous = registry.with_alias(CHAMPION), registry.with_alias(PREVIOUS)
        if previous is None or champion is None:
            raise RegistryError(
                f"{registry.model} has no previous champion to go back to: 'cgn models' lists its versions"
            )
        _, reload = _again(registry, previous.number, Path(scratch))
        check = gate.reloaded(reload)
        decision = {"when": now(), "model": registry.model, "alias": CHAMPION, "by": by, "because": because}
        told = {"decision": decision, "gate": {"checks": [asdict(check)]}}
        if not check.passed:
            append_record(store, REFUSED, told, previous, champion)
            return Outcome(REFUSED, CHAMPION, (check,), previous.number, champion.number)
        if champion.number != previous.number:  # else a rollback was cut short after this
            withdrawn = f"{decision['when']} by {by}" + (f": {because}" if because else "")
            registry.set_tags(champion.number, {"cgn.withdrawn": withdrawn})
            registry.set_alias(CHAMPION, previous.number)
        registry.delete_alias(PREVIOUS)  # one step back: the one that was withdrawn is nowhere to go back to
        append_record(store, ROLLED_BACK, told, previous, champion)
        return Outcome(ROLLED_BACK, CHAMPION, (check,), previous.number, champion.number)


def whoami() -> str:
    """The name of the account."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's account need not have a name
        return f"uid {os.getuid()}"


def cache_of(store: Store, facts: Facts) -> str:
    """The cache in the store that a table or sweep ran on. Raises ConfigError."""
    if cache := store.cache_with(facts["data"]["cache"]):
        return str(cache)
    raise ConfigError(
        f"the cache {facts['data']['cache']}, which {facts['name']} ran on, is not in {store.caches}: "
        "give it with --data"
    )


def row_of(facts: Facts, asked: str | None) -> Facts:
    """A row by its name or its number from 1; where None is asked for, the winner of a sweep.

    Raises:
        ConfigError: no such row.
    """
    rows: Sequence[Facts] = facts["rows"]
    if not rows:
        raise ConfigError(f"{facts['name']} has no complete trial: run its command again")
    if asked is None and facts["kind"] == "sweep":
        return rows[-1]
    names = [row["name"] for row in rows]
    if asked in names:
        return rows[names.index(asked)]
    if asked is not None and asked.isdecimal() and 1 <= int(asked) <= len(rows):
        return rows[int(asked) - 1]
    told = "; ".join(f"{number} = {name}" for number, name in enumerate(names, 1))
    raise ConfigError(f"--row must be one of {told}" + (f" but got {asked!r}" if asked else ""))


def _served(facts: Facts, row: Facts, seed: int) -> list[str]:
    seeds: Sequence[int] = facts["run"]["seeds"]
    if seed not in seeds:
        raise ConfigError(f"--seed must be one of {', '.join(map(str, seeds))} but got {seed}")
    return list(row["units"][seeds.index(seed)])


def _packaged(
    folder: Path, ledger: Ledger, served: Sequence[str], pairs: Pairs, evidence: Facts
) -> tuple[Path, gate.Reload]:
    """The model's folder, and what it says when it is loaded from there."""
    from cgn_platform.serving import package  # torch: not for those who only ask for versions

    try:
        package.package(folder, ledger=ledger, units=served, pairs=pairs, evidence=evidence)
    except (ConfigError, ModelError) as error:
        return folder, gate.Reload(error=str(error))
    return folder, _probe(folder)


def _again(registry: Registry, number: str, scratch: Path) -> tuple[Path, gate.Reload]:
    """A version's files as the registry has them, and what the model says from there."""
    into = scratch / number
    into.mkdir()
    try:
        folder = registry.fetch(number, into)
    except RegistryError as error:
        return into, gate.Reload(error=str(error))
    return folder, _probe(folder)


def _probe(folder: Path) -> gate.Reload:
    from cgn_platform.serving import package

    try:
        with package.load(folder) as ensemble:
            return gate.Reload(ensemble.check())
    except CGNError as error:
        return gate.Reload(error=str(error))


def _champion(version: Version, ledger: Ledger) -> gate.Champion:
    """With its test folds, from the units that it was promoted by."""
    try:
        ids = json.loads(version.tags["cgn.units"])
        data = {"cache": version.tags["cgn.cache"], "splits": version.tags["cgn.splits"]}
    except (KeyError, ValueError):
        return gate.Champion(version.number, None, "its tags do not name the units it was made from")
    units, faults = gate.verified(ledger, ids, {**data, "folds": len(ids[0])})
    if faults:
        return gate.Champion(version.number, None, f"its units are not whole: {faults[0]}")
    return gate.Champion(version.number, out_of_fold.join(units))


def _point(registry: Registry, alias: str, version: Version, champion: Version | None) -> None:
    """Move the alias, unless somebody else did meanwhile; `previous` first. A champion is no challenger."""
    if alias == CHAMPION:
        now = registry.with_alias(CHAMPION)
        if (now and now.number) != (champion and champion.number):
            raise RegistryError(
                f"the champion of {registry.model} was changed by somebody else meanwhile: run the same "
                "command again, so that it is compared with the new one"
            )
        if champion:
            registry.set_alias(PREVIOUS, champion.number)
    registry.set_alias(alias, version.number)
    if alias == CHAMPION and CHALLENGER in version.aliases:
        registry.delete_alias(CHALLENGER)


def _finish(store: Store, registry: Registry, version: Version, asked: PromotionRequest) -> None:
    """The line that a killed process did not write."""
    of_alias = [
        line
        for line in read_record(store)
        if line["action"] != REFUSED and (line["model"], line["alias"]) == (registry.model, asked.alias)
    ]
    if not of_alias or of_alias[-1]["version"] != version.number:
        decision = {name: version.tags.get(f"cgn.{name}", "") for name in ("when", "by", "because")}
        checks = json.loads(version.tags.get("cgn.gate", "[]"))
        decision |= {"model": registry.model, "alias": asked.alias}
        told = {"decision": decision, "gate": {"checks": checks}}
        append_record(store, PROMOTED, told, version, registry.with_alias(PREVIOUS))
