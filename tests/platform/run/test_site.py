"""How many trials a site runs at once, and the identities that a specification gives to units."""

from collections.abc import Sequence
from typing import Any

import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ResourcesError
from cgn_platform.cluster.resources import Cluster, Resources
from cgn_platform.run.site import Site, TrainingSpec
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger


def site(store: Store, **changes: Any) -> Site:
    return Site(store, Ledger(store.units), Cluster("local", [{"CPU": 4.0}, {"CPU": 3.0}]), **changes)


@pytest.mark.parametrize(
    ("changes", "slots"),
    [
        ({}, 7),
        ({"concurrent": 2}, 2),
        ({"concurrent": 100}, 7),
        ({"resources": Resources(2)}, 3),
        ({"fold_workers": 3}, 2),  # three workers per trial
        ({"fold_workers": 7}, 1),
    ],
)
def test_trials_at_once(store: Store, changes: dict[str, Any], slots: int) -> None:
    assert site(store, **changes).slots() == slots


def test_a_trial_with_more_workers_than_fit_is_refused(store: Store) -> None:
    with pytest.raises(ResourcesError, match="needs 8 fold workers but the cluster has room for 7") as raised:
        site(store, fold_workers=8).slots()
    assert raised.value.remedy == "lower --fold-workers"


def test_units_are_named_by_configuration_fold_and_data(
    store: Store, pairs: Pairs, splits: Sequence[Split]
) -> None:
    spec = TrainingSpec.of(pairs, splits, site(store, fold_workers=2))
    assert spec.fold_workers == 2
    assert spec.fingerprints()["cache"] == pairs.fingerprint
    ids = {spec.identity(config, split).id for config in (Config(), Config(alpha=0.1)) for split in splits}
    assert len(ids) == 6
    fewer = TrainingSpec.of(pairs, splits[:2], site(store))
    assert fewer.identity(Config(), splits[0]).id not in ids  # other splits are other data
