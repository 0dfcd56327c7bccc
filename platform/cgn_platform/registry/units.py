"""The units behind a row or a registered version, verified."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cgn.errors import LedgerError
from cgn_platform.registry.gate import Champion
from cgn_platform.registry.registry import Version
from cgn_platform.store import out_of_fold
from cgn_platform.store.ledger import Ledger, Unit


def verify_units(
    ledger: Ledger, ids: Sequence[Sequence[str]], data: Mapping[str, Any]
) -> tuple[list[list[Unit]], list[str]]:
    """Open the units of a row; every file is hashed again.

    Args:
        ledger: holds the units.
        ids: as the row names them, `[seed][fold]`.
        data: of the table or sweep: cache, splits, folds.

    Returns:
        The units, `[seed][fold]`, and their faults, a line each.
    """
    units: list[list[Unit]] = []
    faults: list[str] = []
    for seed in ids:
        opened = []
        for unit_id in seed:
            try:
                opened.append(ledger.open(unit_id))
            except LedgerError as error:
                faults.append(str(error))
        units.append(opened)
    return units, faults or _mismatches(units, data)


def _mismatches(units: Sequence[Sequence[Unit]], data: Mapping[str, Any]) -> list[str]:
    """Why intact units are not those of the row."""
    faults = []
    made_from = {(unit.identity.cache, unit.identity.splits) for seed in units for unit in seed}
    if made_from != {(data["cache"], data["splits"])}:
        faults.append(f"a unit was not made from cache {data['cache']} and splits {data['splits']}")
    expected = list(range(data["folds"]))
    for seed in units:
        folds = [unit.identity.fold for unit in seed]
        if folds != expected:
            faults.append(f"the folds must be {expected} but are {folds}")
    configs = [{**unit.identity.config, "seed": 0} for seed in units for unit in seed]
    seeds = [{unit.identity.config["seed"] for unit in seed} for seed in units]
    if any(config != configs[0] for config in configs) or any(len(values) != 1 for values in seeds):
        faults.append("the units of a row must have the same configuration but differ")
    return faults


def measured_champion(version: Version, ledger: Ledger) -> Champion:
    """The champion with its test predictions, from the units that its tags name."""
    try:
        ids = json.loads(version.tags["cgn.units"])
        data = {"cache": version.tags["cgn.cache"], "splits": version.tags["cgn.splits"]}
    except (KeyError, ValueError):
        return Champion(version.number, None, "its tags do not name the units it was made from")
    units, faults = verify_units(ledger, ids, {**data, "folds": len(ids[0])})
    if faults:
        return Champion(version.number, None, f"its units are missing or damaged: {faults[0]}")
    return Champion(version.number, out_of_fold.join(units))
