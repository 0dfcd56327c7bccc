"""What `cgn up` started, as a file in the store; whether it runs and answers."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import psutil

from cgn import files, sealed
from cgn.errors import ClusterError, first_line
from cgn_platform.cluster.processes import Identity, find_process, process_tree, session_of
from cgn_platform.servers.http import status
from cgn_platform.store.layout import Store
from cgn_platform.tracking.login import read_login

STUDIES = "api/studies"  # a path that Optuna's dashboard answers


@dataclass(frozen=True)
class ServerState:
    """The servers of a store.

    Attributes:
        jobs: address of Ray's jobs and dashboard.
        driver: address of the Ray cluster for drivers, host:port.
        mlflow: address of MLflow.
        token: path of the file with Ray's token.
        temporary: folder of Ray's files.
        processes: of the servers.
        children: of these, when they first answered; some outlive a killed parent.
        ui: address of Optuna's dashboard; empty if it was not asked for.
        login: path of the file with the login of MLflow and the dashboard; empty for servers of an earlier
            version, which require none.
    """

    jobs: str
    driver: str
    mlflow: str
    token: str
    temporary: str
    processes: Sequence[Identity]
    children: Sequence[Identity] = ()
    ui: str = ""
    login: str = ""

    @property
    def bearer(self) -> dict[str, str]:
        """The header that Ray asks for."""
        return {"Authorization": f"Bearer {Path(self.token).read_text().strip()}"}

    @property
    def basic(self) -> dict[str, str]:
        """The header that MLflow and Optuna's dashboard ask for."""
        login = read_login(Path(self.login)) if self.login else None
        return login.headers if login else {}

    def alive(self) -> bool:
        """Whether all servers run."""
        return all(find_process(*identity) is not None for identity in self.processes)

    def tree(self) -> list[psutil.Process]:
        """Every running process of the servers, including what they started later.

        Each server leads a session of its own. A session's number is not reused while one of its processes
        lives, so one known process leads to all others, also after the server itself was killed.
        """
        known = [find_process(*identity) for identity in (*self.processes, *self.children)]
        alive = {process.pid: process for root in known if root is not None for process in process_tree(root)}
        sessions = {session_of(pid) for pid in alive} & {pid for pid, _ in self.processes}
        for pid in psutil.pids():
            if session_of(pid) in sessions:
                with contextlib.suppress(psutil.NoSuchProcess):
                    alive.setdefault(pid, psutil.Process(pid))
        return list(alive.values())

    def silent(self) -> list[str]:
        """The servers that do not answer, or not as they should."""
        answers = {
            "Ray": status(f"{self.jobs}/api/jobs/", self.bearer),
            "MLflow": status(f"{self.mlflow}/health"),
        }
        if self.ui:
            answers["Optuna's dashboard"] = status(f"{self.ui}/{STUDIES}", self.basic)
        return [name for name, answer in answers.items() if answer != HTTPStatus.OK]


def read_state(store: Store) -> ServerState | None:
    """The servers of this store; None if `cgn up` has started none.

    Raises:
        ClusterError: the file is damaged.
    """
    path = store.servers
    try:
        facts = json.loads(path.read_text())
        for name in ("processes", "children"):
            facts[name] = [(int(pid), float(created)) for pid, created in facts.get(name, ())]
        return ServerState(**facts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"{path} cannot be read ({first_line(error)})", remedy="end its servers by hand and remove it"
        ) from error


def write_state(store: Store, state: ServerState) -> None:
    """Write down what was started, readable for its owner only."""
    files.write(store.servers, sealed.plain(vars(state)), private=True)
