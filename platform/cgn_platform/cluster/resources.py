"""What a trial reserves on a node, and how many trials a cluster can run at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cgn.errors import ConfigError, ResourcesError


@dataclass(frozen=True)
class Resources:
    """What one trial reserves on a node: CPUs, and GPUs or a fraction of one.

    Raises:
        ConfigError: a value is too small, or above 1 and not whole.
    """

    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        for name, value, low in (("cpus", self.cpus, 0.01), ("gpus", self.gpus, 0)):
            if value < low:
                raise ConfigError(f"--{name} must be at least {low:g} but got {value:g}")
            if value > 1 and value != int(value):
                raise ConfigError(f"--{name} above 1 must be whole but got {value:g}: take {int(value)}")


@dataclass(frozen=True)
class Cluster:
    """A connected Ray cluster.

    Attributes:
        address: as it was given.
        nodes: the resources of each node that is alive.
    """

    address: str
    nodes: Sequence[Mapping[str, float]]

    def slots(self, resources: Resources) -> int:
        """How many trials the cluster can run at once.

        Raises:
            ResourcesError: no node has room for a trial.
        """
        slots = sum(fits(node, resources) for node in self.nodes)
        if slots == 0:
            cpus, gpus = (
                max((node.get(kind, 0.0) for node in self.nodes), default=0) for kind in ("CPU", "GPU")
            )
            raise ResourcesError(
                f"a trial needs {resources.cpus:g} CPUs and {resources.gpus:g} GPUs "
                f"but no node has more than {cpus:g} CPUs and {gpus:g} GPUs",
                remedy="lower --cpus or --gpus, or add such a node",
            )
        return slots


def fits(node: Mapping[str, float], resources: Resources) -> int:
    """How many trials a node with these resources can run at once."""
    by_cpu = node.get("CPU", 0) / resources.cpus
    by_gpu = node.get("GPU", 0) / resources.gpus if resources.gpus else by_cpu
    if 0 < resources.gpus < 1:  # a fraction cannot be split over two GPUs
        by_gpu = node.get("GPU", 0) * int(1 / resources.gpus + 1e-9)
    return int(min(by_cpu, by_gpu) + 1e-9)
