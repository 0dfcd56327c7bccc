"""Units that do not belong to a row are noticed, also where each of them is intact."""

from pathlib import Path
from typing import Any

from cgn_platform.registry.registry import Version
from cgn_platform.registry.units import measured_champion, verify_units
from cgn_platform.store.ledger import Ledger


def test_intact_units_of_a_row_have_no_fault(units: Path, facts: dict[str, Any]) -> None:
    opened, faults = verify_units(Ledger(units), facts["rows"][0]["units"], facts["data"])
    assert faults == []
    assert [[unit.id for unit in seed] for seed in opened] == facts["rows"][0]["units"]


def test_units_of_another_row_are_a_fault(units: Path, facts: dict[str, Any]) -> None:
    good, weak = facts["rows"][0]["units"][0], facts["rows"][2]["units"][0]
    _, faults = verify_units(Ledger(units), [[good[0], *weak[1:]]], facts["data"])
    assert faults == ["the units of a row must have the same configuration but differ"]
    _, faults = verify_units(Ledger(units), [[good[0]] * 3], facts["data"])
    assert faults == ["the folds must be [0, 1, 2] but are [0, 0, 0]"]


def test_units_of_other_data_are_a_fault(units: Path, facts: dict[str, Any]) -> None:
    other = {**facts["data"], "splits": "others"}
    _, (fault,) = verify_units(Ledger(units), facts["rows"][0]["units"], other)
    assert fault.startswith("a unit was not made from cache 000000000000 and splits others")


def test_every_missing_unit_is_named(units: Path, facts: dict[str, Any]) -> None:
    _, faults = verify_units(Ledger(units), facts["rows"][3]["units"], facts["data"])
    assert len(faults) == 3
    assert all(fault.startswith("no unit ") for fault in faults)


def test_a_champion_that_cannot_be_measured_says_why(units: Path, facts: dict[str, Any]) -> None:
    unknown = measured_champion(Version("1", {}), Ledger(units))
    assert (unknown.measured, unknown.reason) == (None, "its tags do not name the units it was made from")
    tags = {"cgn.units": '[["ff"]]', "cgn.cache": "0" * 12, "cgn.splits": facts["data"]["splits"]}
    lost = measured_champion(Version("1", tags), Ledger(units))
    assert lost.measured is None
    assert lost.reason.startswith("its units are missing or damaged: no unit ff")
