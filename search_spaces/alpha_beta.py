"""The two numbers that the paper does not print: alpha (Eq. 7) and the margin beta (Eq. 12).

    cgn sweep search_spaces/alpha_beta.py --data runs/cache/mias-all-...
    cgn sweep search_spaces/alpha_beta.py --data ... --set backbone=tiny --set epochs=15 --trials 12

Cost: a trial is five folds of 50 epochs. AlexNet at 224 pixels takes about a second for each step on two
cores, so the whole search needs a GPU: some hours on one, with four trials on it by --gpus 0.25. With
backbone=tiny at 96 pixels a trial takes a minute or two on one core.
Expect a flat surface. beta has the unit of d_tc, which grows with the backbone's features; hence its wide
range. alpha near 0 ignores the reference, alpha near 1 the target. On MIAS alone AUC stays near 0.5, and its
spread over folds is wider than any difference found here.
"""

from cgn.config import Config
from cgn_platform.space import Float, Prune, Space

SPACE = Space(
    base=Config(),
    dimensions={
        "alpha": Float(0, 1),
        "beta": Float(0.1, 1000, log=True),
    },
    first=[{"alpha": 0.1}, {"alpha": 0.9}, {"beta": 100.0}],
    trials=40,
    prune=Prune("median", startup_trials=5, warmup_epochs=5),
)
