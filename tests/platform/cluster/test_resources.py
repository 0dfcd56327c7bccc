"""How many trials fit on the nodes of a cluster."""

import pytest

from cgn.errors import ConfigError, ResourcesError
from cgn_platform.cluster.resources import Cluster, Resources

SMALL, LARGE = {"CPU": 2.0}, {"CPU": 8.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "resources", "slots"),
    [
        ([SMALL], Resources(), 2),
        ([SMALL], Resources(0.5), 4),
        ([SMALL, LARGE], Resources(2), 5),
        ([SMALL, LARGE], Resources(1, 1), 4),
        ([SMALL, LARGE], Resources(1, 0.5), 8),
        ([LARGE], Resources(0.5, 0.3), 12),  # three on each GPU: a fraction cannot be split over two
        ([LARGE], Resources(1, 3), 1),
    ],
)
def test_trials_that_fit_at_once(nodes: list[dict[str, float]], resources: Resources, slots: int) -> None:
    assert Cluster("local", nodes).slots(resources) == slots


def test_resources_that_only_several_nodes_together_have_are_refused() -> None:
    with pytest.raises(
        ResourcesError, match=r"1 CPUs and 8 GPUs but no node has more than 8 CPUs and 4 GPUs"
    ):
        Cluster("local", [LARGE, LARGE]).slots(Resources(1, 8))
    with pytest.raises(ResourcesError, match="lower --cpus"):
        Cluster("local", [SMALL, SMALL]).slots(Resources(3))


@pytest.mark.parametrize(("cpus", "gpus"), [(0, 0), (-1, 0), (1, -1), (1, 1.5)])
def test_impossible_resources_are_refused(cpus: float, gpus: float) -> None:
    with pytest.raises(ConfigError, match=r"--[cg]pus"):
        Resources(cpus, gpus)
