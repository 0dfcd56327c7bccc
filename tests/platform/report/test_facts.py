"""Facts: written whole, read back, and refused when they cannot be what is asked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError
from cgn_platform.report.facts import declare, provenance_facts, read_facts, run_facts, write_facts
from cgn_platform.run.site import Site
from cgn_platform.space import Row, Table
from cgn_platform.store.layout import Store


def test_facts_are_read_as_they_were_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_facts(store, {"name": "a", "value": [1, None, "ü"]})
    assert read_facts(store, "a") == {"name": "a", "value": [1, None, "ü"]}
    write_facts(store, {"name": "a", "value": 2})
    assert read_facts(store, "a")["value"] == 2
    assert [path.name for path in store.report("a").folder.iterdir()] == ["facts.json"]


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match=r"no table or sweep 'five' has finished in .*finished: none"):
        read_facts(store, "five")
    write_facts(store, {"name": "three"})
    with pytest.raises(ConfigError, match="finished: three"):
        read_facts(store, "five")


def test_facts_of_an_older_version_are_refused_with_a_remedy(tmp_path: Path, sweep: dict[str, Any]) -> None:
    write_facts(Store(tmp_path), {**sweep, "corrected": 0.763})
    with pytest.raises(ConfigError, match="run the sweep's command again"):
        read_facts(Store(tmp_path), sweep["name"])


def test_facts_in_the_folder_of_another_name_are_refused(tmp_path: Path, table: dict[str, Any]) -> None:
    store = Store(tmp_path)
    write_facts(store, {**table, "name": "mine"})
    store.report("mine").folder.rename(store.report("yours").folder)
    with pytest.raises(ConfigError, match=r"reports/yours holds the facts of 'mine': .*rename it back"):
        read_facts(store, "yours")


def test_a_name_belongs_to_one_table_on_one_data_set(
    tmp_path: Path, pairs: Pairs, splits: tuple[Split, ...]
) -> None:
    store, rows = Store(tmp_path), (Row(("a",), {}), Row(("b",), {"alpha": 0.1}))
    table = Table("T", ("row",), rows, Config(), baseline="a")
    declare(store, "t", table, pairs, splits)
    declare(store, "t", table, pairs, splits)
    for other in (table.edit(epochs=7), table.edit(beta=2.5)):
        with pytest.raises(ConfigError, match="the name 't' belongs to another table or to other data"):
            declare(store, "t", other, pairs, splits)
    with pytest.raises(ConfigError, match="choose another --name"):
        declare(store, "t", table, pairs, splits[:2])


def test_a_run_is_described_by_command_code_and_cost(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/cgn", "table", "a b.py"])
    facts = run_facts(site, [0, 1], [3600.0, 1800.0])
    assert facts["command"] == "cgn table 'a b.py'"
    assert (facts["cpu_hours"], facts["gpu_hours"], facts["seeds"]) == (1.5, 0, [0, 1])
    assert facts["ledger"] == site.ledger.where
    assert {name: facts[name] for name in ("code", "git_commit")} == {
        name: provenance_facts()[name] for name in ("code", "git_commit")
    }
    json.dumps(facts)
