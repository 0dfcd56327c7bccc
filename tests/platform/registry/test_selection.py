"""Which row is promoted, and what identifies it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgn.data.pairs import Pairs
from cgn.errors import ConfigError
from cgn_platform.registry.selection import PromotionRequest, cache_of, select_row
from cgn_platform.store.layout import Store

TABLE: dict[str, Any] = {
    "name": "three",
    "kind": "table",
    "data": {"cache": "0" * 12},
    "run": {"seeds": [0, 1]},
    "rows": [
        {"name": "good", "units": [["a", "b"], ["c", "d"]]},
        {"name": "2", "units": [["e", "f"], ["g", "h"]]},
        {"name": "weak", "units": [["i", "j"], ["k", "l"]]},
    ],
}
SWEEP = TABLE | {
    "kind": "sweep",
    "raw": 0.8,
    "corrected": {"estimate": 0.7, "low": 0.6, "high": 0.9},
    "trials": [{"state": "complete"}, {"state": "pruned"}, {"state": "complete"}],
}


@pytest.mark.parametrize(("name", "row"), [("good", "good"), ("1", "good"), ("2", "2"), ("3", "weak")])
def test_a_row_is_found_by_its_name_and_else_by_its_number(name: str, row: str, pairs: Pairs) -> None:
    assert select_row(TABLE, pairs, PromotionRequest(name)).row["name"] == row


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (PromotionRequest("nix"), "--row must be one of 1 = good; 2 = 2; 3 = weak but got 'nix'"),
        (PromotionRequest("4"), "--row must be one of"),
        (PromotionRequest(None), "--row must be one of 1 = good"),
        (PromotionRequest("good", seed=3), "--seed must be one of 0, 1 but got 3"),
        (PromotionRequest("good", alias="king"), "--as must be champion or challenger but got 'king'"),
    ],
)
def test_an_impossible_request_is_refused(request_: PromotionRequest, message: str, pairs: Pairs) -> None:
    with pytest.raises(ConfigError, match=message):
        select_row(TABLE, pairs, request_)


def test_another_cache_and_a_sweep_without_a_winner_are_refused(pairs: Pairs) -> None:
    other = replace(pairs, fingerprint="1" * 12)
    with pytest.raises(ConfigError, match="--data must be the cache 000000000000, which three ran on"):
        select_row(TABLE, other, PromotionRequest("good"))
    with pytest.raises(ConfigError, match="three has no complete trial: run its command again"):
        select_row(SWEEP | {"rows": []}, pairs, PromotionRequest())


def test_only_the_winner_of_a_sweep_was_selected_by_its_scores(pairs: Pairs) -> None:
    winner = select_row(SWEEP, pairs, PromotionRequest())
    assert (winner.row["name"], winner.compared) == ("weak", 2)
    assert winner.winner is not None
    assert winner.winner.corrected is not None
    assert (winner.winner.raw, winner.winner.corrected.estimate) == (0.8, 0.7)
    default = select_row(SWEEP, pairs, PromotionRequest("1"))
    assert (default.winner, default.compared) == (None, 3)


def test_the_key_depends_on_measured_and_on_served_units(pairs: Pairs) -> None:
    first, second = (select_row(TABLE, pairs, PromotionRequest("good", seed)) for seed in (0, 1))
    assert first.served == ("a", "b")
    assert first.key != second.key
    assert first.key == select_row(TABLE, pairs, PromotionRequest("1", by="ada")).key
    assert first.key == "31b3aedd1777c4a8fbc39ac8"  # stored in MLflow: it must not change


def test_a_cache_that_is_not_in_the_store_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give it with --data"):
        cache_of(Store(tmp_path), TABLE)
