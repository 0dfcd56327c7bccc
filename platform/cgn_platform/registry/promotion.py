"""Promotion of a model to the MLflow Model Registry through the gate, and rollback.

    MLflow, model `cgn`          a version for each row and seed; aliases champion, challenger, previous
    MLflow, `promotions`         a run for each decision: figures of the gate, evidence, files of the version
    store/promotions.jsonl       a line for each decision, refusals included; it outlives MLflow

A version is identified by the units it was made from: promoting them again finds it. Files and tags are
complete before the version is registered, the version is registered before an alias points to it, and
`previous` is set before `champion` is moved. After a kill at any moment, the same command therefore finishes
the promotion.
"""

import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cgn import sealed
from cgn.data.pairs import Pairs
from cgn.errors import CGNError, ConfigError, ModelError, RegistryError
from cgn.temporary import scratch
from cgn_platform.registry import gate
from cgn_platform.registry.evidence import (
    add_decision,
    candidate_evidence,
    decision_facts,
    model_card,
    version_description,
    version_tags,
)
from cgn_platform.registry.gate import Candidate, Check, ReloadResult
from cgn_platform.registry.record import (
    PROMOTED,
    REFUSED,
    ROLLED_BACK,
    append_record,
    one_decision_at_a_time,
    read_record,
)
from cgn_platform.registry.registry import CHALLENGER, CHAMPION, FOLDER, PREVIOUS, Registry, Version
from cgn_platform.registry.selection import PromotionRequest, SelectedRow, select_row
from cgn_platform.registry.units import measured_champion, verify_units
from cgn_platform.report.facts import Facts
from cgn_platform.serving.origin import check_origin
from cgn_platform.store import out_of_fold
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger


@dataclass(frozen=True)
class Decision:
    """The result of a promotion or a rollback.

    Attributes:
        action: PROMOTED, REFUSED or ROLLED_BACK; empty if the alias already pointed to the version.
        alias: that was requested.
        checks: of the gate.
        version: that was promoted; None for a refused candidate that has no version.
        replaced: number of the version that was champion before.
    """

    action: str
    alias: str
    checks: Sequence[Check] = ()
    version: str | None = None
    replaced: str | None = None

    @property
    def refused(self) -> bool:
        """Whether nothing was changed because a check failed."""
        return self.action == REFUSED


def promote(
    facts: Facts,
    pairs: Pairs,
    request: PromotionRequest,
    *,
    store: Store,
    registry: Registry,
    ledger: Ledger,
) -> Decision:
    """Check a row of a table, or a sweep's winner, and register it if it passes the gate.

    Args:
        facts: of the table or sweep.
        pairs: the cache it ran on.
        request: which row, as what, with which requirements.
        store: holds the record and the lock.
        registry: receives the version.
        ledger: holds the units.

    Raises:
        ConfigError: no such row or seed, or another cache.
        RegistryError: MLflow fails, or the champion was changed in the meantime.
    """
    selected = select_row(facts, pairs, request)
    with one_decision_at_a_time(store), scratch() as folder:
        return _Promotion(selected, request, store, registry, ledger, folder).decide(pairs)


def rollback(*, store: Store, registry: Registry, by: str, because: str) -> Decision:
    """Make the previous champion the champion again, if its predictions for the stored probe are unchanged.

    Raises:
        RegistryError: there is no previous champion, or MLflow fails.
    """
    with one_decision_at_a_time(store), scratch() as folder:
        champion, previous = registry.with_alias(CHAMPION), registry.with_alias(PREVIOUS)
        if previous is None or champion is None:
            raise RegistryError(
                f"{registry.model} has no previous champion to return to",
                remedy="'cgn models' lists its versions",
            )
        _, reload = _download(registry, previous, folder)
        check = gate.check_reload(reload)
        decision = decision_facts(registry, CHAMPION, by, because)
        evidence = {"decision": decision, "gate": {"checks": [asdict(check)]}}
        if not check.passed:
            append_record(store, REFUSED, evidence, previous, champion)
            return Decision(REFUSED, CHAMPION, (check,), previous.number, champion.number)
        if champion.number != previous.number:  # else an earlier rollback was interrupted after this step
            reason = f": {because}" if because else ""
            registry.set_tags(champion.number, {"cgn.withdrawn": f"{decision['when']} by {by}{reason}"})
            registry.set_alias(CHAMPION, previous.number)
        registry.delete_alias(PREVIOUS)  # never points to a withdrawn version
        append_record(store, ROLLED_BACK, evidence, previous, champion)
        return Decision(ROLLED_BACK, CHAMPION, (check,), previous.number, champion.number)


def account_name() -> str:
    """The name of the account of this process; its number if it has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


class _Promotion:
    """One promotion, while the lock of decisions is held."""

    def __init__(
        self,
        selected: SelectedRow,
        request: PromotionRequest,
        store: Store,
        registry: Registry,
        ledger: Ledger,
        folder: Path,
    ) -> None:
        self._selected, self._request, self._scratch = selected, request, folder
        self._store, self._registry, self._ledger = store, registry, ledger
        self._champion = registry.with_alias(CHAMPION)
        self._version = registry.with_units(selected.key)  # of an earlier promotion of the same units

    def decide(self, pairs: Pairs) -> Decision:
        """Evaluate the candidate, then register or refuse it."""
        request, champion = self._request, self._champion
        if self._version and request.alias in self._version.aliases:
            self._complete_record(self._version)
            return Decision("", request.alias, version=self._version.number)
        candidate, evidence, folder = self._candidate(pairs)
        reigning = measured_champion(champion, self._ledger) if champion else None
        verdict = gate.evaluate(candidate, reigning, request.requirements)
        evidence = add_decision(evidence, request, self._registry, champion, verdict)
        tags = version_tags(self._selected.key, evidence)
        if not verdict.passed or folder is None:
            append_record(self._store, REFUSED, evidence, None, champion)
            self._registry.log_decision(self._selected.title, {**tags, "cgn.state": REFUSED}, evidence)
            return Decision(REFUSED, request.alias, verdict.checks)
        if self._version:
            self._registry.set_tags(self._version.number, tags)
            version = self._version
        else:
            version = self._register(folder, tags, evidence)
        self._move_alias(version)
        append_record(self._store, PROMOTED, evidence, version, champion)
        replaced = champion.number if champion and request.alias == CHAMPION else None
        return Decision(PROMOTED, request.alias, verdict.checks, version.number, replaced)

    def _candidate(self, pairs: Pairs) -> tuple[Candidate, dict[str, Any], Path | None]:
        """The candidate with its evidence and, if its units are intact, the folder of the model."""
        selected = self._selected
        units, faults = verify_units(self._ledger, selected.row["units"], selected.facts["data"])
        measured = None if faults else out_of_fold.join(units)
        evidence = candidate_evidence(selected, pairs, units, measured)
        folder, reload = None, None
        if self._version:
            folder, reload = _download(self._registry, self._version, self._scratch)
        elif measured is not None:
            folder, reload = self._package(pairs, evidence)
        count = sum(len(seed) for seed in selected.row["units"])
        return Candidate(count, faults, measured, selected.winner, reload), evidence, folder

    def _package(self, pairs: Pairs, evidence: Facts) -> tuple[Path, ReloadResult]:
        """The model's folder, and whether the model can be loaded from it."""
        from cgn_platform.serving import package  # loads torch

        folder = self._scratch / FOLDER
        try:
            package.package(
                folder, ledger=self._ledger, units=self._selected.served, pairs=pairs, evidence=evidence
            )
        except (ConfigError, ModelError) as error:
            return folder, ReloadResult(error=str(error))
        return folder, _reload(folder)

    def _register(self, folder: Path, tags: Mapping[str, str], evidence: Facts) -> Version:
        """Register the folder as a new version, and check the files that MLflow stored."""
        registry = self._registry
        (folder / "evidence.json").write_bytes(sealed.plain(evidence))
        (folder / "model_card.md").write_text(model_card(evidence))
        run = registry.log_decision(self._selected.title, {**tags, "cgn.state": PROMOTED}, evidence, folder)
        version = registry.create_version(run, tags, version_description(evidence))
        _, stored = _download(registry, version, self._scratch)
        check = gate.check_reload(stored)
        if not check.passed:
            raise RegistryError(
                f"version {version.number} of {registry.model} was not stored as it was written "
                f"({check.words}), so no alias was moved",
                remedy="delete the version in MLflow, repair its file storage and run the same command again",
            )
        return version

    def _move_alias(self, version: Version) -> None:
        """Point the alias to the version; `previous` first. A new champion is no longer challenger.

        Raises:
            RegistryError: the champion is not the one that the candidate was compared with.
        """
        registry, alias, compared = self._registry, self._request.alias, self._champion
        if alias == CHAMPION:
            current = registry.with_alias(CHAMPION)
            if (current and current.number) != (compared and compared.number):
                raise RegistryError(
                    f"the champion of {registry.model} was changed by another process in the meantime",
                    remedy="run the same command again to compare with the new champion",
                )
            if compared:
                registry.set_alias(PREVIOUS, compared.number)
        registry.set_alias(alias, version.number)
        if alias == CHAMPION and CHALLENGER in version.aliases:
            registry.delete_alias(CHALLENGER)

    def _complete_record(self, version: Version) -> None:
        """Append the line of an earlier promotion that was killed before it did so."""
        registry, alias = self._registry, self._request.alias
        lines = [
            line
            for line in read_record(self._store)
            if line["action"] != REFUSED and (line["model"], line["alias"]) == (registry.model, alias)
        ]
        if lines and lines[-1]["version"] == version.number:
            return
        decision = {name: version.tags.get(f"cgn.{name}", "") for name in ("when", "by", "because")}
        evidence = {
            "decision": decision | {"model": registry.model, "alias": alias},
            "gate": {"checks": registry.checks(version)},
        }
        append_record(self._store, PROMOTED, evidence, version, registry.with_alias(PREVIOUS))


def _download(registry: Registry, version: Version, folder: Path) -> tuple[Path, ReloadResult]:
    """A version's files as the registry stores them, and whether its model can be loaded from them."""
    into = folder / version.number
    into.mkdir()
    try:
        model = registry.download(version.number, into)
        check_origin(model, f"version {version.number} of {registry.model}", version.tags)
    except (RegistryError, ModelError) as error:
        return into, ReloadResult(error=str(error))
    return model, _reload(model)


def _reload(folder: Path) -> ReloadResult:
    from cgn_platform.serving import package  # loads torch

    try:
        with package.load(folder) as ensemble:
            return ReloadResult(ensemble.check())
    except CGNError as error:
        return ReloadResult(error=str(error))
