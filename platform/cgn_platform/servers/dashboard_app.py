"""Optuna's dashboard of `cgn up`, behind the login of MLflow.

`python -m cgn_platform.servers.dashboard_app STORE SETTINGS` does what `optuna-dashboard` does. The address
of the studies is read from a private file, since it may contain a password.
"""

import json
import socketserver
import sys
from pathlib import Path
from wsgiref.simple_server import WSGIServer, make_server

from cgn_platform.cluster.processes import LOOPBACK
from cgn_platform.servers.guard import Guard
from cgn_platform.store.layout import Store


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


def main(store: Store, settings: Path) -> None:
    """Serve until the process is ended.

    Args:
        store: contains the login.
        settings: a JSON file with `storage`, the address of the studies, and `port`.

    Raises:
        ClusterError: the store has no login.
    """
    from optuna_dashboard import wsgi

    facts = json.loads(settings.read_text())
    app = Guard.with_login(store.mlflow_login).wsgi(wsgi(facts["storage"]))
    with make_server(LOOPBACK, facts["port"], app, server_class=_ThreadingServer) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(Store(Path(sys.argv[1])), Path(sys.argv[2]))
