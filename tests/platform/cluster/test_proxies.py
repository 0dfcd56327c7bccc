"""Requests to this machine bypass the proxies of the environment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from requests.utils import should_bypass_proxies

from cgn_platform.cli import main
from cgn_platform.cluster.proxies import exemption
from cgn_platform.servers.doctor import Finding, examine
from cgn_platform.servers.launch import environment
from cgn_platform.store.layout import Store

PROXY = "http://me:secret@127.0.0.1:9"


@pytest.fixture(params=["http_proxy", "HTTP_PROXY", "all_proxy"])
def proxied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "intranet.example")
    monkeypatch.setenv(request.param, PROXY)


@pytest.mark.usefixtures("proxied")
def test_what_is_started_reaches_this_machine_directly(tmp_path: Path) -> None:
    variables = environment(Store(tmp_path), "http://127.0.0.1:5000", tmp_path / "token")
    assert variables["no_proxy"] == variables["NO_PROXY"]
    assert variables["no_proxy"].split(",")[:4] == ["intranet.example", "localhost", "127.0.0.1", "::1"]
    assert should_bypass_proxies("http://127.0.0.1:5000", variables["no_proxy"])
    assert should_bypass_proxies("http://169.254.169.254/latest", variables["no_proxy"])  # Ray asks it
    assert not should_bypass_proxies("http://example.org", variables["no_proxy"])


def test_ray_reports_to_nobody_that_its_usage_statistics_are_off(tmp_path: Path) -> None:
    variables = environment(Store(tmp_path), "http://127.0.0.1:5000", tmp_path / "token")
    assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
    assert urlsplit(variables["RAY_USAGE_STATS_REPORT_URL"]).hostname == "127.0.0.1"


@pytest.mark.usefixtures("proxied")
def test_a_command_exempts_this_machine_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cgn", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert should_bypass_proxies("http://127.0.0.1:5000", None)
    assert "127.0.0.1" in os.environ["no_proxy"]


def proxies_finding(tmp_path: Path, environment: dict[str, str] | None = None) -> Finding:
    (finding,) = (f for f in examine(Store(tmp_path), environment=environment) if f.topic == "proxies")
    return finding


@pytest.mark.parametrize(
    ("no_proxy", "state"),
    [
        ({}, "warning"),
        ({"no_proxy": "intranet.example"}, "warning"),
        ({"no_proxy": "localhost"}, "warning"),
        ({"no_proxy": "localhost,127.0.0.1", "NO_PROXY": "intranet.example"}, "warning"),
        ({"no_proxy": "localhost,127.0.0.1"}, "ok"),
        ({"NO_PROXY": "localhost, 127.0.0.0/8"}, "ok"),
        ({"NO_PROXY": "*"}, "ok"),
    ],
)
def test_doctor_says_whether_the_users_environment_exempts_this_machine(
    tmp_path: Path, no_proxy: dict[str, str], state: str
) -> None:
    finding = proxies_finding(tmp_path, {"http_proxy": PROXY, **no_proxy})
    assert finding.state == state
    assert "127.0.0.1:9" in finding.message
    assert "secret" not in finding.message
    assert ("export no_proxy=" in finding.remedy) == (state == "warning")


def test_doctor_looks_at_the_environment_before_the_command_changed_it(tmp_path: Path) -> None:
    """The command exempts this machine before it runs, so its own environment is always right."""
    done = subprocess.run(
        [sys.executable, "-m", "cgn_platform.cli", "doctor", "--json", "--store", str(tmp_path)],
        env={**os.environ, "http_proxy": PROXY, "no_proxy": "", "NO_PROXY": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    (finding,) = (f for f in json.loads(done.stdout)["findings"] if f["topic"] == "proxies")
    assert finding["state"] == "warning"


def test_without_a_proxy_nothing_changes() -> None:
    assert exemption({"no_proxy": "a"}) == {}
