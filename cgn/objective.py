"""Eq. 14, 19 and 21 as tables of named terms: an ablation is a smaller table.

Each term names the parts that it trains (reading 24), so the training step needs no special case: the
gradient of a part is that of the sum of the terms that name it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from cgn import equations as eq
from cgn.ablation import Adversarial, Bilateral, CounterfactualGradient, Triplet, Variant
from cgn.config import Config

PARTS = ("backbone", "generator", "classifier", "discriminator")


class ForwardPass(NamedTuple):
    """Everything that one pass over a batch computes; None where no term reads it."""

    y: Tensor  # (B,)
    logits: Tensor  # (B, 2)
    cam: Tensor  # (B, 2, h, w), one map per class
    h_t: Tensor  # (B, C, h, w)
    h_r: Tensor | None = None
    h_c: Tensor | None = None
    logits_c: Tensor | None = None  # (B, 2), the classifier on [0, H_C] (reading 9)
    d_tc: Tensor | None = None  # (B,)
    d_rc: Tensor | None = None  # (B,)
    real: Tensor | None = None  # D's logits on H_R, (B, h, w)
    fake: Tensor | None = None  # D's logits on H_C


@dataclass(frozen=True)
class Term:
    """A loss of the paper: its name, its value per sample, what it reads and which parts it trains."""

    name: str
    value: Callable[[ForwardPass, Config], Tensor]
    reads: tuple[str, ...]  # fields of ForwardPass
    trains: tuple[str, ...]  # of PARTS


L_CLS = Term(
    "l_cls", lambda s, _: eq.l_cls(s.logits, s.y), ("logits",), ("backbone", "generator", "classifier")
)
L_AD_G = Term(
    "l_ad_g",
    lambda s, c: eq.l_ad_g(_required(s.fake), saturating=c.adversarial is Adversarial.SATURATING),
    ("fake",),
    ("generator",),
)
L_AD_D = Term(
    "l_ad_d",
    lambda s, _: eq.l_ad_d(_required(s.real), _required(s.fake)),
    ("real", "fake"),
    ("discriminator",),
)
L_NE = Term("l_ne", lambda s, _: eq.l_ne(_required(s.logits_c)), ("logits_c",), ("generator",))
L_FT = Term(
    "l_ft",
    lambda s, c: eq.l_ft(_required(s.d_tc), _required(s.d_rc), c.beta),
    ("d_tc", "d_rc"),
    ("generator",),
)
L_FC = Term("l_fc", lambda s, _: eq.l_fc(_required(s.d_tc)), ("d_tc",), ("generator",))

EQUATIONS: Mapping[Variant, tuple[Term, ...]] = {
    Variant.PROPOSED: (L_CLS, L_AD_G, L_AD_D, L_NE, L_FT),  # Eq. 14
    Variant.MASKED_ADVERSARY: (L_CLS, L_AD_G, L_AD_D, L_NE),  # Eq. 19, D and G see Omega * H
    Variant.DIRECT: (L_CLS, L_AD_G, L_AD_D, L_NE, L_FC),  # Eq. 21
}
TERM_NAMES = tuple(dict.fromkeys(term.name for terms in EQUATIONS.values() for term in terms))

ADVERSARIAL_TERMS = (L_AD_G, L_AD_D)
GENERATOR_TERMS = (*ADVERSARIAL_TERMS, L_NE, L_FT, L_FC)
# Terms that each column of Table III, and each row of Table V, removes from the equation.
WITHOUT_BILATERAL: Mapping[Bilateral, tuple[Term, ...]] = {
    Bilateral.NONE: ADVERSARIAL_TERMS,  # reading 13: row 8 keeps its other losses
    Bilateral.SBF: GENERATOR_TERMS,
    Bilateral.GF: GENERATOR_TERMS,
    Bilateral.SFF: GENERATOR_TERMS,
    Bilateral.ORACLE: GENERATOR_TERMS,
}
WITHOUT_TRIPLET: Mapping[Triplet, tuple[Term, ...]] = {Triplet.NONE: (L_FT, L_FC)}
WITHOUT_NEGATIVE_EMBEDDING: Mapping[bool, tuple[Term, ...]] = {False: (L_NE,)}


def terms(config: Config) -> tuple[Term, ...]:
    """The terms of a configuration: those of its equation, without those that its switches remove."""
    removed = (
        *WITHOUT_BILATERAL.get(config.bilateral, ()),
        *WITHOUT_TRIPLET.get(config.triplet, ()),
        *WITHOUT_NEGATIVE_EMBEDDING.get(config.negative_embedding, ()),
    )
    joint = config.counterfactual_gradient is CounterfactualGradient.JOINT
    return tuple(
        replace(term, trains=("backbone", "generator")) if joint and term.trains == ("generator",) else term
        for term in EQUATIONS[config.variant]
        if term not in removed
    )


def needs(config: Config) -> frozenset[str]:
    """Fields of `ForwardPass` that the terms of this configuration read."""
    return frozenset(field for term in terms(config) for field in term.reads)


def by_part(
    table: tuple[Term, ...],
) -> tuple[tuple[tuple[str, ...], tuple[Term, ...]], ...]:
    """Parts grouped by the terms that train them: each group is one backward pass."""
    groups: dict[tuple[Term, ...], list[str]] = {}
    for part in PARTS:
        if own := tuple(term for term in table if part in term.trains):
            groups.setdefault(own, []).append(part)
    return tuple((tuple(parts), own) for own, parts in groups.items())


def _required(value: Tensor | None) -> Tensor:
    if value is None:
        raise TypeError(
            "a term reads a field of ForwardPass that the network did not compute: see Term.reads"
        )
    return value
