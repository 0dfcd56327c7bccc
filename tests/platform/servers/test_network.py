"""Nothing phones home, and no request for this machine goes to a proxy: one that records stays empty."""

import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgn.data.breast import Preprocessing
from cgn.data.cache import write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan
from cgn_platform.cluster.processes import free_ports

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[3]
SMOKE = str(ROOT / "search_spaces" / "smoke.py")


class Proxy(http.server.ThreadingHTTPServer):
    """Refuses every request, and records it."""

    def __init__(self) -> None:
        requests: list[str] = []
        self.requests = requests

        class Handler(http.server.BaseHTTPRequestHandler):
            def refuse(self) -> None:
                requests.append(f"{self.command} {self.path}")
                self.send_error(503)

            def log_message(self, *_: object) -> None:
                pass

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "CONNECT"):
            setattr(Handler, f"do_{method}", Handler.refuse)
        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    server = Proxy()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_servers_and_a_sweep_send_nothing_to_a_proxy(proxy: Proxy, tmp_path: Path) -> None:
    cache = write_cache(
        "phantom", phantom.Options(pairs=24, seed=0), Preprocessing(48), SplitPlan(3), caches=tmp_path
    ).path
    address = f"http://127.0.0.1:{proxy.server_port}"
    names = ("http_proxy", "https_proxy", "all_proxy")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().endswith("_PROXY") and not name.startswith(("CGN_", "RAY_", "MLFLOW_"))
    }
    environment |= {variant: address for name in names for variant in (name, name.upper())}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    store = Path(tempfile.mkdtemp(prefix="cgnt-"))
    ray_port, mlflow_port, ui_port = map(str, free_ports(3))

    def cgn(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cgn_platform.cli", *arguments, "--store", str(store)],
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    try:
        up = cgn("up", "--ui", "--ray-port", ray_port, "--mlflow-port", mlflow_port, "--ui-port", ui_port)
        assert up.returncode == 0, up.stderr
        uri = f"http://127.0.0.1:{mlflow_port}"
        arguments = ("--data", str(cache), "--trials", "1", "--set", "epochs=1", "--address", "local")
        sweep = cgn("sweep", SMOKE, *arguments, "--name", "s", MLFLOW_TRACKING_URI=uri)
        assert sweep.returncode == 0, sweep.stderr
        assert "MLflow cannot be written" not in sweep.stdout + sweep.stderr
        assert cgn("report", "s", MLFLOW_TRACKING_URI=uri).returncode == 0
    finally:
        assert cgn("down").returncode == 0
        shutil.rmtree(store, ignore_errors=True)
    assert proxy.requests == []
