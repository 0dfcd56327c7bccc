"""What is looked at before a sweep starts, on a real Ray."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest

from cgn.errors import ClusterError, ConfigError, ResourcesError
from cgn_platform.cluster import preflight
from cgn_platform.cluster.resources import Cluster, Resources

pytestmark = pytest.mark.integration


@pytest.fixture
def check(ray: Cluster, store: Path) -> Callable[..., None]:
    def run(**changes: Any) -> None:
        asked = {"resources": Resources(), "store": store, "ledger": str(store.root / "units")}
        preflight.preflight(ray, **{**asked, **changes})

    return run


def test_a_sound_cluster_passes_and_nothing_is_left_behind(check: Any, store: Path) -> None:
    check(needs_bytes=1)
    assert [path.name for path in store.rglob("*")] == ["units"]
    begin = time.monotonic()
    check()
    assert time.monotonic() - begin < 5  # usually a tenth of a second; the first takes one


def test_resources_that_are_not_there_come_first(check: Any, store: Path) -> None:
    with pytest.raises(ResourcesError, match="8 GPUs"):
        check(resources=Resources(1, 8))
    assert list(store.iterdir()) == []


def test_a_folder_that_is_another_one_on_the_node_is_no_ledger(
    check: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/proc/self/cwd` is this process's own folder, as /data is another disk on another machine."""
    (store.root / "mine").mkdir()
    monkeypatch.chdir(store.root / "mine")
    with pytest.raises(ClusterError, match=r"does not share the ledger .*a folder that all nodes mount.*s3:"):
        check(ledger="/proc/self/cwd")
    assert list((store.root / "mine").iterdir()) == []
    check(ledger=str(store.root / "mine"))


def test_a_bucket_is_the_same_from_everywhere(check: Any) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = f"scheme=http&region=us-east-1&endpoint_override={host}%3A{port}&allow_bucket_creation=true"
        address = f"s3://key:secret@bucket/units?{options}"
        check(ledger=address)
        place, folder = preflight.open_place(address)
        assert place.get_file_info(pyarrow.fs.FileSelector(folder)) == []
    finally:
        server.stop()


def test_a_ledger_that_nobody_can_write_is_told_before_a_node_is_asked(check: Any, store: Path) -> None:
    (store.root / "file").write_text("")
    with pytest.raises(ConfigError, match=r"ledger .*file/units cannot be written.*--ledger or CGN_LEDGER"):
        check(ledger=str(store.root / "file" / "units"))
    with pytest.raises(ConfigError, match="--ledger must be a folder or an address like s3://"):
        check(ledger="nothing://there")


def test_a_full_disk_is_told_with_what_is_needed(check: Any) -> None:
    with pytest.raises(ResourcesError, match=r"about \d+\.0 GB will be written but .* GB free: make room"):
        check(needs_bytes=10**18)


def test_other_packages_on_a_node_are_named_with_both_versions(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = preflight.versions()
    assert set(mine) == {*preflight.PACKAGES, "code of cgn", "code of cgn_platform"}
    other = {"torch": "1.0", "code of cgn": "0", "code of cgn_platform": "1"}
    monkeypatch.setattr(preflight, "versions", lambda: {**mine, **other})
    told = (
        rf"torch {mine['torch']} \(here 1\.0\), code of cgn [0-9a-f]{{16}} \(here 0\), "
        rf"code of cgn_platform {mine['code of cgn_platform']} \(here 1\): install the same"
    )
    with pytest.raises(ClusterError, match=told):
        check()


def test_a_node_that_does_not_answer_is_named(check: Any) -> None:
    begin = time.monotonic()
    with pytest.raises(ClusterError, match=r"node .* runs no task within 0 s \(no answer\)"):
        check(seconds=0)
    assert time.monotonic() - begin < 5


def test_a_node_that_is_lost_meanwhile_is_left_out(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray lists a node that was killed as alive until it has missed some heartbeats."""
    there, lost = preflight._nodes, {"1" * 56: "gone"}
    monkeypatch.setattr(preflight, "_nodes", lambda resources: there(resources) | lost)
    check()
    monkeypatch.setattr(preflight, "_nodes", lambda _: lost)
    with pytest.raises(ClusterError, match="every node with room for a trial was lost"):
        check()
