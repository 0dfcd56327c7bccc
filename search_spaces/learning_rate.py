"""Adam's learning rate and the batch size. The paper prints 5e-5 and no batch size.

    cgn sweep search_spaces/learning_rate.py --data runs/cache/mias-all-...

Cost: as alpha_beta.py with half as many trials. Expect a broad plateau around 1e-4 for networks trained from
scratch. Rates above 1e-2 mostly diverge; such a trial is recorded as failed and has no score.
"""

from cgn.config import Config
from cgn_platform.space import Choice, Float, Prune, Space

SPACE = Space(
    base=Config(),
    dimensions={
        "learning_rate": Float(1e-6, 1e-2, log=True),
        "batch_size": Choice((4, 8, 16)),
    },
    first=[{"learning_rate": 1e-3}],
    trials=20,
    prune=Prune("median", startup_trials=5, warmup_epochs=5),
)
