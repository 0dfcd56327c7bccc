"""An MLflow server of the tests' own, to be killed and to come back on the same port."""

import contextlib
import http.client
import os
import signal
import socket
import sys
import time
from pathlib import Path

import psutil

SECONDS = 180  # until it must answer, also on a busy machine


class Server:
    """On the loopback address, with its database in this folder. It is not started yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: psutil.Popen | None = None

    def start(self) -> None:
        """Returns once it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self._folder / "mlartifacts")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = psutil.Popen(
                command, cwd=self._folder, env={**os.environ, **quiet}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError((self._folder / "server.log").read_text())
            time.sleep(0.1)

    def kill(self) -> None:
        """With signal 9, all of its processes."""
        if self._process is None:
            return
        tree = [self._process, *self._process.children(recursive=True)] if self._process.is_running() else []
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        psutil.wait_procs(tree[1:], timeout=10)
        self._process = None

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
