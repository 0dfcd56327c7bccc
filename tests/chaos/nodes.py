"""A Ray cluster of several nodes on this machine, until its standard input is closed.

    nodes.py FOLDER CPUS...        a node for each number of CPUs; the first one is the head

Prints the address. A number of CPUs on standard input adds a node, which is confirmed by a line.
"""

import os
import sys
from pathlib import Path

from cgn_platform.cluster.connect import prepare_local


def main(folder: str, *cpus: str) -> None:
    os.environ["RAY_TMPDIR"] = folder  # where Ray writes the address, instead of /tmp/ray
    Path(folder, "ray").mkdir()
    prepare_local()
    from ray.cluster_utils import Cluster

    head = {"num_cpus": int(cpus[0]), "temp_dir": folder, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for count in cpus[1:]:
        cluster.add_node(num_cpus=int(count))
    print("address", cluster.address, flush=True)
    for line in sys.stdin:
        cluster.add_node(num_cpus=int(line))
        print("added", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
