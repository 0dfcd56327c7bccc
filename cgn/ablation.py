"""The switches of Tables III-V, as values.

What they change in the losses is defined in `cgn.objective`, what they change in the networks in
`cgn.methods.cgn`; no other module branches on them.
"""

from enum import StrEnum


class Bilateral(StrEnum):
    """Table III, column "Bilateral": how the other breast is used."""

    NONE = "none"  # x: the vanilla single-view network (row 1), or G(H_T) if a loss needs H_C (row 8)
    SBF = "sbf"  # simple bilateral features: [H_T, H_R] fused
    GF = "gf"  # Table V: SBF with a learned gate on each side (reading 28)
    SFF = "sff"  # Table V: SBF over both views of the breast, averaged (reading 29)
    TF_GAN = "tf_gan"  # the input of G is the target only
    BF_GAN = "bf_gan"  # the input of G is (1 - alpha) H_T + alpha H_R
    ADAIN_GAN = "adain_gan"  # the input of G is Eq. 7's interpolation
    ORACLE = "oracle"  # H_C = features of the true counterfactual image; phantoms only, an upper bound


class GeneratorLevel(StrEnum):
    """Sec. IV-G: what G works on (reading 30)."""

    FEATURE = "feature"  # H_C = G(H)
    IMAGE = "image"  # X_C = G(X), H_C = its features


class Triplet(StrEnum):
    """Table III, column "Triplet Loss": whether L_FT is used, and what its Omega is computed from."""

    NONE = "none"
    NON_FEEDBACK = "non_feedback"  # Omega from the largest target-counterfactual distance (reading 15)
    FEEDBACK = "feedback"  # Omega = softmax(CAM)


class Variant(StrEnum):
    """Table IV: which equation is the objective."""

    PROPOSED = "proposed"  # Eq. 14
    MASKED_ADVERSARY = "masked_adversary"  # variant 1, Eq. 17-19: D and G see Omega * H, no triplet
    DIRECT = "direct"  # variant 2, Eq. 20-21: d_tc in place of the triplet


class CamClass(StrEnum):
    """Reading 6: the class whose activation map is Omega during training."""

    PREDICTED = "predicted"
    LABEL = "label"
    MALIGNANT = "malignant"


class Adversarial(StrEnum):
    """Reading 10: the generator's adversarial loss."""

    NON_SATURATING = "non_saturating"
    SATURATING = "saturating"


class CounterfactualGradient(StrEnum):
    """Reading 24: which parts L_AD, L_FT and L_NE train."""

    GENERATOR = "generator"
    JOINT = "joint"  # generator and backbone
