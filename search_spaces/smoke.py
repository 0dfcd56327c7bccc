"""Does everything work? Eight short trials of a tiny network, some of them pruned.

    cgn cache phantom --pairs 60 --size 96
    cgn sweep search_spaces/smoke.py --data runs/cache/phantom-...

Cost: less than two minutes on two cores. Expect AUC around 0.5 to 0.7, which means nothing: 60 phantom pairs
and a few epochs only show that trials start, report, are pruned and are recorded.
"""

from cgn.config import Config
from cgn_platform.space import Float, Prune, Space

SPACE = Space(
    base=Config(backbone="tiny", generator_blocks=1, epochs=6, learning_rate=1e-3),
    dimensions={
        "alpha": Float(0, 1),
        "learning_rate": Float(1e-4, 1e-2, log=True),
    },
    trials=8,
    prune=Prune("median", startup_trials=3, warmup_epochs=2),
)
