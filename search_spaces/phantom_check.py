"""Does the pair contain the answer? One view, SBF, CGN (both values of counterfactual_gradient), the oracle.

    cgn cache phantom --pairs 300 --size 96
    cgn sweep search_spaces/phantom_check.py --data runs/cache/phantom-...

Fifteen fixed runs: five methods with three seeds each on the same five folds. Nothing is searched or pruned.
Cost: about 40 minutes on two cores. The results are in docs/LOG.md. Only phantoms can be used: the oracle
sees the target without its lesion.
"""

from cgn.ablation import Bilateral, CounterfactualGradient, Triplet
from cgn.config import Config
from cgn_platform.space import Choice, Prune, Space

ONE_VIEW = {"bilateral": Bilateral.NONE, "negative_embedding": False, "triplet": Triplet.NONE}
METHODS = (
    ONE_VIEW,
    {**ONE_VIEW, "bilateral": Bilateral.SBF},
    {"counterfactual_gradient": CounterfactualGradient.GENERATOR},
    {"counterfactual_gradient": CounterfactualGradient.JOINT},
    {**ONE_VIEW, "bilateral": Bilateral.ORACLE},
)
FULL = Config(backbone="tiny", generator_blocks=4, learning_rate=1e-3, epochs=30)
SEEDS = (0, 1, 2)
RUNS = [
    {**FULL.model_dump(include=set(ONE_VIEW)), **method, "seed": seed} for seed in SEEDS for method in METHODS
]

SPACE = Space(
    base=FULL.edit(**ONE_VIEW),
    dimensions={
        "bilateral": Choice([Bilateral.NONE, Bilateral.SBF, Bilateral.ADAIN_GAN, Bilateral.ORACLE]),
        "negative_embedding": Choice([True, False]),
        "triplet": Choice([Triplet.NONE, Triplet.FEEDBACK]),
        "counterfactual_gradient": Choice(list(CounterfactualGradient)),
        "seed": Choice(SEEDS),
    },
    trials=len(RUNS),
    first=RUNS[1:],
    prune=Prune("none"),
)
