"""`cgn doctor` on what is fine, what is missing and what is unsafe."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest
from rich.console import Console

from cgn_platform import cli
from cgn_platform.cluster import processes
from cgn_platform.servers import doctor
from cgn_platform.servers.doctor import Finding
from cgn_platform.servers.state import ServerState, write_state
from cgn_platform.store.layout import Store


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    for name in [name for name in os.environ if name.startswith(("CGN_", "RAY_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CGN_KEY_FILE", str(store.root / "keys" / "pseudonym.key"))


LISTEN = "import socket; s = socket.create_server(('{}', 0)); print(s.getsockname()[1], flush=True); input()"


def look(store: Store, topic: str, address: str | None = None) -> list[Finding]:
    return [finding for finding in doctor.examine(store, address) if finding.topic == topic]


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


@pytest.fixture
def open_jobs() -> Iterator[str]:
    """A job interface that lets everybody in."""

    class Everybody(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Everybody) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_store_that_is_not_there_yet_is_fine_and_stays_away(store: Store) -> None:
    there = doctor.examine(Store(store.root / "none"))
    topics = {finding.topic for finding in there}
    assert {"versions", "decoders", "GPUs", "disk", "files", "pseudonym key", "cgn up", "ledger"} <= topics
    assert [finding for finding in there if finding.state != "ok" and finding.topic != "listeners"] == []
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize(("mode", "state"), [(0o700, "ok"), (0o755, "warning"), (0o770, "unsafe")])
def test_who_may_enter_the_store(store: Store, mode: int, state: str) -> None:
    store.root.chmod(mode)
    assert states(look(store, "files")) == [state]


@pytest.mark.parametrize("name", ["ray_token", "mlflow.env", "up.json"])
def test_a_file_with_a_secret_that_others_may_read_is_unsafe(store: Store, name: str) -> None:
    (store.root / name).write_text("secret-of-mine")
    (store.root / name).chmod(0o640)
    found = look(store, "files")[-1]
    assert (found.state, "0640" in found.message) == ("unsafe", True)
    assert f"chmod 600 {store.root / name}" in found.remedy


def test_the_pseudonym_key_is_looked_at_and_never_made(store: Store) -> None:
    key = store.root / "keys" / "pseudonym.key"
    assert states(look(store, "pseudonym key")) == ["ok"]
    assert not key.exists()
    key.parent.mkdir()
    key.write_text("k" * 64)
    key.chmod(0o644)
    (found,) = look(store, "pseudonym key")
    assert found.state == "unsafe"
    key.chmod(0o600)
    (found,) = look(store, "pseudonym key")
    assert found.state == "ok"
    assert "kkk" not in repr(found)


def test_jobs_without_a_token_are_unsafe_and_silence_is_told(store: Store, open_jobs: str) -> None:
    (found,) = look(store, "jobs", open_jobs)
    assert (found.state, "every caller" in found.message) == ("unsafe", True)
    port = processes.free_ports(1)[0]
    assert states(look(store, "jobs", f"http://127.0.0.1:{port}")) == ["warning"]
    (found,) = look(store, "address", f"127.0.0.1:{port}")
    assert (found.state, "nothing answers" in found.message, bool(found.remedy)) == ("warning", True, True)


@pytest.mark.parametrize(("answer", "state"), [(401, "ok"), (200, "unsafe")])
def test_an_mlflow_without_a_login_is_unsafe(
    store: Store, monkeypatch: pytest.MonkeyPatch, answer: int, state: str
) -> None:
    """As the servers of earlier versions are."""
    monkeypatch.setattr(doctor, "status", lambda url, *_: answer if "experiments" in url else 200)
    monkeypatch.setattr("cgn_platform.servers.state.status", lambda *_: 200)
    (store.root / "t").write_text("secret")
    me = processes.identity_of(psutil.Process())
    servers = ServerState(
        "http://127.0.0.1:1", "", "http://127.0.0.1:2", str(store.root / "t"), "", [me], login="no file"
    )
    write_state(store, servers)
    assert look(store, "MLflow")[0].state == state


def test_servers_that_ended_are_told_with_what_to_do(store: Store) -> None:
    state = ServerState(
        "http://127.0.0.1:1", "", "http://127.0.0.1:1", str(store.root / "t"), "", [(2**22 + 1, 1.0)]
    )
    write_state(store, state)
    (found,) = look(store, "cgn up")
    assert (found.state, found.remedy) == ("warning", f"run 'cgn down --store {store}'")
    (store.root / "up.json").write_text("{")
    assert states(look(store, "cgn up")) == ["warning"]


@pytest.mark.parametrize(
    ("name", "kind"), [("raylet", "Ray"), ("bin/optuna-dashboard", "Optuna's dashboard")]
)
def test_a_server_that_other_machines_reach_is_unsafe(store: Store, name: str, kind: str) -> None:
    """Stands in for one: a process of that name, listening everywhere, on a port that nobody knows."""
    (store.root / "bin").mkdir()
    (store.root / name).symlink_to(sys.executable)
    with subprocess.Popen(
        [store.root / name, "-c", LISTEN.format("")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        found = look(store, "listeners")[0]
        assert f"{kind} (process {process.pid}) at 0.0.0.0:{port}" in found.message
        assert found.state == "unsafe"
        process.kill()


@pytest.mark.parametrize("switch", ["true", "false"])
def test_an_mlflow_that_runs_jobs_is_told(store: Store, switch: str) -> None:
    (store.root / "mlflow").symlink_to(sys.executable)
    with subprocess.Popen(
        ["mlflow", "-c", LISTEN.format("127.0.0.1")],
        executable=store.root / "mlflow",
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": switch},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        told = [found.message for found in look(store, "listeners") if found.state == "warning"]
        assert any(f"127.0.0.1:{port}" in line for line in told) == (switch == "true")
        process.kill()


def test_databases_and_ledger_that_do_not_answer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = f"postgresql+psycopg://me:hush@127.0.0.1:{port}/study"
        monkeypatch.setenv("CGN_STUDY_URL", url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("CGN_LEDGER", "nothing://there")
        found = doctor.examine(store)
    told = {finding.topic: finding for finding in found}
    for topic in ("study database", "MLflow", "ledger"):
        assert told[topic].state == "warning", topic
        assert told[topic].remedy, topic
    assert "hush" not in repr(found)


def test_a_full_disk_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgn_platform.cluster.preflight.free_bytes", lambda _: 10**9)
    (found,) = look(store, "disk")
    assert (found.state, found.message) == ("warning", f"1.0 GB free at {store}")


@pytest.mark.parametrize(
    ("kinds", "code"), [([], 0), (["ok"], 0), (["ok", "warning"], 1), (["warning", "unsafe"], 2)]
)
def test_the_exit_code_is_the_worst_of_all(
    kinds: list[doctor.State], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_: [Finding("a", kind, "b", "c") for kind in kinds])
    monkeypatch.setattr("sys.argv", ["cgn", "doctor", "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
    assert [each["state"] for each in json.loads(capsys.readouterr().out)["findings"]] == kinds


def test_people_see_what_to_do_below_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("files", "unsafe", "others may write [here]", "run 'chmod 700 here'")]
    Console(width=100).print(doctor.as_table(findings))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["files", "unsafe", "others", "may", "write", "[here]"]
    assert lines[1].strip() == "-> run 'chmod 700 here'"
