"""Checks before a sweep or table, on a real Ray."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgn.errors import ClusterError, ConfigError, ResourcesError
from cgn.places import Place
from cgn_platform.cluster import preflight
from cgn_platform.cluster.resources import Cluster, Resources
from cgn_platform.store.layout import Store

pytestmark = pytest.mark.integration

TRIAL = Resources()


@pytest.fixture
def check(ray: Cluster, store: Store) -> Callable[..., None]:
    def run(ledger: Path | str = store.units, resources: Resources = TRIAL, **options: Any) -> None:
        preflight.preflight(ray, resources=resources, store=store.root, ledger=Place(ledger), **options)

    return run


def test_a_sound_cluster_passes_and_nothing_is_left_behind(check: Any, store: Store) -> None:
    check(needs_bytes=1)
    assert [path.name for path in store.root.rglob("*")] == ["units"]
    check()
    assert [path.name for path in store.root.rglob("*")] == ["units"]


def test_missing_resources_come_first(check: Any, store: Store) -> None:
    with pytest.raises(ResourcesError, match="8 GPUs"):
        check(resources=Resources(1, 8))
    assert list(store.root.iterdir()) == []


def test_a_folder_that_is_another_one_on_the_node_is_no_ledger(
    check: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/proc/self/cwd` is this process's own folder, as /data is another disk on another machine."""
    (store.root / "mine").mkdir()
    monkeypatch.chdir(store.root / "mine")
    with pytest.raises(ClusterError, match=r"does not share the ledger .*a folder that all nodes mount.*s3:"):
        check(ledger="/proc/self/cwd")
    assert list((store.root / "mine").iterdir()) == []
    check(ledger=store.root / "mine")


def test_a_bucket_is_the_same_from_everywhere(check: Any) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = f"scheme=http&region=us-east-1&endpoint_override={host}%3A{port}&allow_bucket_creation=true"
        address = f"s3://key:secret@bucket/units?{options}"
        check(ledger=address)
        assert Place(address).names() == []
    finally:
        server.stop()


def test_a_ledger_that_the_driver_cannot_write_is_refused_before_a_node_is_asked(
    check: Any, store: Store
) -> None:
    (store.root / "file").write_text("")
    with pytest.raises(ConfigError, match=r"ledger .*file/units cannot be written.*--ledger or CGN_LEDGER"):
        check(ledger=store.root / "file" / "units", seconds=0)


def test_a_full_disk_is_refused_with_the_space_that_is_needed(check: Any) -> None:
    with pytest.raises(ResourcesError, match=r"about \d+\.0 GB will be written but .* GB free: free space"):
        check(needs_bytes=10**18)


def test_other_versions_and_code_on_a_node_are_named_beside_ours(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = preflight.versions()
    assert set(ours) == {*preflight.PACKAGES, "code of cgn", "code of cgn_platform"}
    other = {"torch": "1.0", "code of cgn": "0", "code of cgn_platform": "1"}
    monkeypatch.setattr(preflight, "versions", lambda: {**ours, **other})
    message = (
        f"torch {ours['torch']} (here 1.0), code of cgn {ours['code of cgn']} (here 0), "
        f"code of cgn_platform {ours['code of cgn_platform']} (here 1): install the same"
    )
    with pytest.raises(ClusterError, match=re.escape(message)):
        check()


def test_another_checkout_of_the_platform_alone_is_refused(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version is the same, and so are all packages: only the source differs."""
    monkeypatch.setattr(preflight, "platform_code", lambda: "0" * 16)
    with pytest.raises(
        ClusterError, match=r"other packages than this driver: code of cgn_platform \w{16} \("
    ) as e:
        check()
    assert "code of cgn " not in str(e.value)


def test_a_node_that_does_not_answer_is_named(check: Any) -> None:
    with pytest.raises(ClusterError, match=r"node .* did not run a task within 0 s \(no answer\): repair it"):
        check(seconds=0)


def test_a_node_that_is_lost_meanwhile_is_left_out(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray lists a node that was killed as alive until it has missed some heartbeats."""
    nodes_for, lost = preflight.nodes_for, {"1" * 56: "lost"}
    monkeypatch.setattr(preflight, "nodes_for", lambda resources: nodes_for(resources) | lost)
    check()
    monkeypatch.setattr(preflight, "nodes_for", lambda _: lost)
    with pytest.raises(ClusterError, match="every node with room for a trial was lost"):
        check()
