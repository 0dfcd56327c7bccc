"""Grafana's boards, and whether what they ask for is exported by a real Ray that runs a real sweep."""

import contextlib
import json
import re
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn_platform.cluster.resources import Cluster
from cgn_platform.space import Float, Prune, Space
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "dashboards" / "grafana"
BOARDS = sorted((GRAFANA / "boards").glob("*.json"))
# Ray's agent measures these by NVIDIA's library, only on nodes where that finds a GPU.
ONLY_WITH_A_GPU = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available"}
SECONDS = 120  # until all is exported, also on a busy machine


def load(path: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def datasource() -> dict[str, Any]:
    file = GRAFANA / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    return dict(source)


def asked(board: dict[str, Any]) -> set[str]:
    """Every metric that a board's panels and variables ask for."""
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [variable["definition"] for variable in board["templating"]["list"]]
    return set(re.findall(r"\b(ray_\w+)", " ".join(queries)))


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_is_whole(path: Path) -> None:
    board = load(path)
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ][0]
    assert board["uid"] == f"cgn-{path.stem}"
    places = []
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {source["uid"]}
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        places += [(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])]
    assert len(set(places)) == len(places)  # no panel lies over another
    known = {variable["name"] for variable in board["templating"]["list"]}
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert set(re.findall(r"\$(\w+)", " ".join(queries))) == known


def test_the_boards_show_sweeps_and_gpus() -> None:
    everything = set().union(*(asked(load(path)) for path in BOARDS))
    assert {"ray_cgn_trials", "ray_cgn_best_val_auc", "ray_node_cpu_utilization"} <= everything
    assert everything >= ONLY_WITH_A_GPU


def test_gpu_metrics_are_declared_by_the_installed_ray() -> None:
    """They cannot be seen without a GPU: names, and that memory comes in MiB, are read in its source."""
    folder = Path(__import__("ray").__file__).parent / "dashboard" / "modules"
    source = (folder / "reporter" / "reporter_agent.py").read_text()
    assert {name for name in ONLY_WITH_A_GPU if f'"{name.removeprefix("ray_")}"' not in source} == set()
    own = (folder / "metrics" / "dashboards" / "default_dashboard_panels.py").read_text()
    assert re.search(r"ray_node_gram_used\{[^}]*\}[^\"]*\* 1024 \* 1024", own)


def test_compose_mounts_what_is_there_and_publishes_on_loopback() -> None:
    over: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.watch.yaml").read_text())
    base: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    services = over["services"]
    assert set(services) - set(base["services"]) == {"prometheus", "grafana"}
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published == ["127.0.0.1:3000:3000"]
    volumes = [volume for service in services.values() for volume in service["volumes"]]
    mounts = [volume.split(":")[:2] for volume in volumes if volume[0] == "."]
    places = {(ROOT / "docker" / source).resolve(): target for source, target in mounts}
    assert all(place.exists() for place in places)
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/cgn.yaml").read_text())["providers"][0]
    assert provider["options"]["path"] == places[GRAFANA / "boards"]
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ][0]
    assert source["url"] == "http://prometheus:9090"
    (scrape,) = yaml.safe_load((GRAFANA / "prometheus.yaml").read_text())["scrape_configs"]
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    assert scrape["file_sd_configs"][0]["files"] == [
        f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"  # noqa: S108 - of a container
    ]
    for name in ("ray-head", "prometheus"):  # the same path in both: the file is a link to another one
        assert any("/ray:/tmp/ray" in volume for volume in services[name]["volumes"])


@pytest.mark.integration
@pytest.mark.timeout(400)
def test_what_boards_ask_for_is_exported(
    ray: Cluster,
    store: Store,
    simulate: Any,
    pairs: Pairs,
    splits: Sequence[Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray import nodes

    from cgn_platform.run.prometheus import SweepMetrics
    from cgn_platform.run.site import Site
    from cgn_platform.run.sweep import run_sweep

    monkeypatch.setattr("cgn_platform.run.prometheus.PULSE_SECONDS", 0.5)
    broken = {"learning_rate": 0.055}  # an error of its machine: it is tried again
    space = Space(
        base=Config(epochs=3, beta=1.0),
        dimensions={"learning_rate": Float(1e-5, 1e-1, log=True)},
        first=[broken],
        trials=2,
        prune=Prune("median", startup_trials=2),
    )
    (node,) = nodes()
    url, seen = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", dict[str, float]()
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(0.2):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as answer:
                lines = answer.read().decode().splitlines()
                seen.update(
                    (line.rpartition(" ")[0], float(line.rpartition(" ")[2]))
                    for line in lines
                    if line[0] != "#"
                )

    def missing() -> set[str]:
        return wanted - {name.partition("{")[0] for name in list(seen)}

    wanted = set().union(*(asked(load(path)) for path in BOARDS)) - ONLY_WITH_A_GPU
    reader = threading.Thread(target=scrape)
    reader.start()
    try:
        site = Site(store, Ledger(store.units), ray, runner=simulate)
        records = run_sweep(
            space, pairs, splits, name="boards", site=site, listeners=[SweepMetrics(lambda: 0)]
        )
        assert [record.state for record in records] == ["complete", "failed"]
        deadline = time.monotonic() + SECONDS
        while missing() and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(2)  # for the last figures
    finally:
        ended.set()
        reader.join()
    assert missing() == set()

    def figure(name: str, **tags: str) -> float:
        found = {line: value for line, value in seen.items() if line.startswith(f"{name}{{")}
        (value,) = [v for line, v in found.items() if all(f'{k}="{x}"' in line for k, x in tags.items())]
        return value

    assert figure("ray_cgn_trials", study="boards", state="complete") == 1
    assert figure("ray_cgn_trials", study="boards", state="failed") == 1
    assert figure("ray_cgn_trials_waiting", study="boards") == 0
    assert figure("ray_cgn_epochs_total", study="boards") >= 3
    assert figure("ray_cgn_retries_total", study="boards", cause="OSError") == 3
    assert figure("ray_cgn_best_val_auc", study="boards") == pytest.approx(records[0].value)
