"""Requests to this machine bypass the proxies of the environment."""

import os
from pathlib import Path

import pytest
from requests.utils import should_bypass_proxies

from cgn_platform.cli import main
from cgn_platform.cluster.proxies import exemption
from cgn_platform.servers.doctor import examine
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
    assert variables["no_proxy"] == variables["NO_PROXY"] == "intranet.example,localhost,127.0.0.1,::1"
    assert should_bypass_proxies("http://127.0.0.1:5000", variables["no_proxy"])
    assert not should_bypass_proxies("http://example.org", variables["no_proxy"])


@pytest.mark.usefixtures("proxied")
def test_a_command_exempts_this_machine_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cgn", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert should_bypass_proxies("http://127.0.0.1:5000", None)
    assert "127.0.0.1" in os.environ["no_proxy"]


@pytest.mark.usefixtures("proxied")
def test_doctor_names_proxies_without_passwords(tmp_path: Path) -> None:
    (finding,) = (finding for finding in examine(Store(tmp_path)) if finding.topic == "proxies")
    assert "127.0.0.1:9" in finding.message
    assert "secret" not in finding.message


def test_without_a_proxy_nothing_changes() -> None:
    assert exemption({"no_proxy": "a"}) == {}
