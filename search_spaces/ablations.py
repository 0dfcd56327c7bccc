"""The switches of Tables III and IV as a search: which parts, with their numbers.

    cgn sweep search_spaces/ablations.py --data runs/cache/mias-all-... --trials 60

Cost: as alpha_beta.py with more trials; trials without a generator are several times cheaper.
Expect no winner. The search finds combinations that deserve a proper comparison; it ranks nothing. A table
compares rows on equal terms, with intervals, while a search spends most trials on promising regions.

A dimension with `when` exists only where it has an effect: alpha where the generator's input is an
interpolation, the adversarial loss where there is an adversary, the other losses where a counterfactual can
be made (bilateral=none makes one from the target alone if a loss needs it), beta where the triplet is on.
"""

from cgn.ablation import Adversarial, Bilateral, CamClass, CounterfactualGradient, Triplet, Variant
from cgn.config import Config
from cgn_platform.space import Choice, Float, Prune, Space

INTERPOLATES = (Bilateral.BF_GAN, Bilateral.ADAIN_GAN)
ADVERSARIES = (Bilateral.TF_GAN, *INTERPOLATES)
GENERATES = (Bilateral.NONE, *ADVERSARIES)
TRIPLET_ON = (Triplet.NON_FEEDBACK, Triplet.FEEDBACK)
EQUATION_14 = {"bilateral": GENERATES, "variant": (Variant.PROPOSED,)}

SPACE = Space(
    base=Config(),
    dimensions={
        "bilateral": Choice((*GENERATES, Bilateral.SBF)),
        "alpha": Float(0, 1, when={"bilateral": INTERPOLATES}),
        "variant": Choice(tuple(Variant), when={"bilateral": ADVERSARIES}),
        "adversarial": Choice(tuple(Adversarial), when={"bilateral": ADVERSARIES}),
        "negative_embedding": Choice((True, False), when={"bilateral": GENERATES}),
        "counterfactual_gradient": Choice(tuple(CounterfactualGradient), when={"bilateral": GENERATES}),
        "triplet": Choice(tuple(Triplet), when=EQUATION_14),
        "beta": Float(0.1, 1000, log=True, when={**EQUATION_14, "triplet": TRIPLET_ON}),
        "cam_class": Choice(tuple(CamClass), when={"bilateral": GENERATES, "triplet": (Triplet.FEEDBACK,)}),
    },
    # The plain network and simple bilateral features first: what every other row must beat.
    first=[
        {"bilateral": Bilateral.NONE, "negative_embedding": False, "triplet": Triplet.NONE},
        {"bilateral": Bilateral.SBF},
        {"triplet": Triplet.NONE},
    ],
    trials=60,
    prune=Prune("percentile", percentile=60, startup_trials=8, warmup_epochs=8),
)
