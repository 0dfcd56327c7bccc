"""The paper's method (Sec. III-B, Fig. 3), with the switches of Tables III to V as tables."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cgn import equations as eq
from cgn import objective, options
from cgn.ablation import Bilateral, CamClass, GeneratorLevel, Triplet, Variant
from cgn.config import Config
from cgn.errors import ConfigError
from cgn.methods import Batch, BatchPrediction, Features, Method
from cgn.nets.cam import of_class
from cgn.nets.discriminator import Discriminator
from cgn.nets.extractor import Extractor
from cgn.nets.fusion import (
    DifferenceGatedFusionClassifier,
    FusionClassifier,
    GatedFusionClassifier,
)
from cgn.nets.generator import Generator, ImageGenerator
from cgn.objective import ForwardPass

READS = (
    "options",
    "feature_channels",
    "generator_blocks",
    "alpha",
    "beta",
    "bilateral",
    "negative_embedding",
    "triplet",
    "variant",
    "generator_level",
    "cam_class",
    "omega_gradient",
    "adversarial",
    "counterfactual_gradient",
    "loss_weights",
    "precision",
)
"""Fields of `Config` that change this method, besides `provenance.TRAINING_FIELDS`."""

TERMS = objective.TERM_NAMES
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"bilateral": "none", "negative_embedding": False, "triplet": "none", "precision": "bf16"},
    {"bilateral": "bf_gan", "triplet": "non_feedback", "adversarial": "saturating"},
    {"bilateral": "sff", "feature_channels": 16},
    {"bilateral": "gf"},
    {"bilateral": "gf", "options.gate_on": "difference"},
    {"bilateral": "oracle"},
    {"variant": "masked_adversary", "cam_class": "label", "omega_gradient": True},
    {"variant": "direct", "counterfactual_gradient": "joint"},
    {"generator_level": "image", "loss_weights": {"l_cls": 0.5}},
)

# The input of G, by Table III's first column: a function of H_T, H_R and alpha.
GENERATOR_INPUT: Mapping[Bilateral, Callable[[Tensor, Tensor, float], Tensor]] = {
    Bilateral.NONE: lambda h_t, _h_r, _alpha: h_t,
    Bilateral.TF_GAN: lambda h_t, _h_r, _alpha: h_t,
    Bilateral.BF_GAN: lambda h_t, h_r, alpha: torch.lerp(h_t, h_r, alpha),
    Bilateral.ADAIN_GAN: eq.interpolate,
}
# Fields of Batch that a prediction reads besides the target.
OTHER_INPUTS: Mapping[Bilateral, tuple[str, ...]] = {
    Bilateral.NONE: (),
    Bilateral.SBF: ("reference",),
    Bilateral.GF: ("reference",),
    Bilateral.SFF: ("reference", "other_target", "other_reference"),
    Bilateral.TF_GAN: (),
    Bilateral.BF_GAN: ("reference",),
    Bilateral.ADAIN_GAN: ("reference",),
    Bilateral.ORACLE: ("counterfactual",),
}


class Options(options.Options):
    """Settings of rows of Table V that the paper leaves open."""

    gate_on: Literal["concatenation", "difference"] = Field(
        "concatenation", description="what GF's gate reads: both sides, or |H_T - H_R| (reading 28)"
    )


# Classifiers other than simple fusion.
CLASSIFIERS: Mapping[tuple[Bilateral, str], type[FusionClassifier]] = {
    (Bilateral.GF, "concatenation"): GatedFusionClassifier,
    (Bilateral.GF, "difference"): DifferenceGatedFusionClassifier,
}
GENERATORS: Mapping[GeneratorLevel, Callable[[int, int], nn.Module]] = {
    GeneratorLevel.FEATURE: Generator,
    GeneratorLevel.IMAGE: ImageGenerator,
}

# Fields of ForwardPass that depend on H_C (and therefore need a generator), and on H_R.
FROM_H_C = frozenset({"logits_c", "d_tc", "d_rc", "fake"})
FROM_H_R = frozenset({"d_rc", "real"})

# Reading 6: the class whose map is Omega, of logits (B, 2) and labels (B,).
CAM_CLASS: Mapping[CamClass, Callable[[Tensor, Tensor], Tensor]] = {
    CamClass.PREDICTED: lambda logits, _y: logits.argmax(1),
    CamClass.LABEL: lambda _logits, y: y,
    CamClass.MALIGNANT: lambda _logits, y: torch.ones_like(y),
}
# The input of D, from features and Omega (reading 16).
DISCRIMINATOR_INPUT: Mapping[Variant, Callable[[Tensor, Tensor], Tensor]] = {
    Variant.PROPOSED: lambda h, _omega: h,
    Variant.DIRECT: lambda h, _omega: h,
    Variant.MASKED_ADVERSARY: lambda h, omega: omega.unsqueeze(1) * h,
}


class CGN(Method):
    """Fig. 3, with only those parts that the terms of the configuration need."""

    backbone: Extractor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        own = Options.model_validate(config.options)
        self.terms = objective.terms(config)
        self.needs = objective.needs(config)
        self.inputs = ("target", *OTHER_INPUTS[config.bilateral])
        self.needs_reference = "reference" in self.inputs
        self.needs_other = "other_target" in self.inputs
        self.backbone = Extractor(config)
        channels = self.backbone.channels
        self.generates = bool(self.needs & FROM_H_C)
        generator = GENERATORS[config.generator_level]
        self.generator = generator(channels, config.generator_blocks) if self.generates else None
        self.discriminator = Discriminator(channels) if "fake" in self.needs else None
        # The classifier's input is H_T, with the residual H_T - H_C, with H_R, or alone.
        fused = self.generates or len(self.inputs) > 1
        classifier = CLASSIFIERS.get((config.bilateral, own.gate_on), FusionClassifier)
        self.classifier = classifier(channels * (2 if fused else 1), channels)

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """One pass; the gradient of a part is that of the terms that train it (reading 24).

        The graph is built once. Each distinct set of terms is one backward pass through it, and D's logits
        are used for the losses of both D and G.
        """
        with self.autocast():
            computed = self.forward(batch)
            values = {term.name: term.value(computed, self.config) for term in self.terms}
        weights, present = self.config.loss_weights, dict(self.named_children())
        for parts, terms in objective.by_part(self.terms):
            total = torch.stack(
                [weights.get(term.name, 1.0) * values[term.name].mean() for term in terms]
            ).sum()
            parameters = [p for part in parts if part in present for p in present[part].parameters()]
            torch.autograd.backward(total, inputs=parameters, retain_graph=True)
        distances = {"d_tc": computed.d_tc, "d_rc": computed.d_rc}
        values |= {name: value for name, value in distances.items() if value is not None}
        return {name: value.detach() for name, value in values.items()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Sec. IV-E: probability and the map of the predicted class."""
        with self.autocast():
            logits, cam = self._classify(self._features(batch, self.inputs))
        return BatchPrediction(logits.softmax(1)[:, 1], of_class(cam, logits.argmax(1)))

    def release_trunk(self) -> tuple[str, nn.Module]:
        """The part whose features can be computed once; the projection stays and is trained."""
        return "backbone.backbone.", self.backbone.release_backbone()

    @torch.no_grad()
    def features(self, batch: Batch) -> Features:
        """Sec. IV-F: the features that are compared. Raises ConfigError if no counterfactual is generated."""
        if self.generator is None:
            raise ConfigError(
                f"bilateral={self.config.bilateral} must generate a counterfactual to be measured but does "
                "not: choose tf_gan, bf_gan or adain_gan"
            )
        with self.autocast():
            h = self._features(batch, ("target", "reference"))
            truth = None if batch.counterfactual is None else self.backbone(batch.counterfactual).float()
        return Features(h["target"], h["reference"], h["counterfactual"], truth)

    def forward(self, batch: Batch) -> ForwardPass:
        """Everything that the terms read, computed once."""
        compared = ("reference",) if self.needs & FROM_H_R and "reference" not in self.inputs else ()
        h = self._features(batch, (*self.inputs, *compared))
        logits, cam = self._classify(h)
        h_t, h_r, h_c = h["target"], h.get("reference"), h.get("counterfactual")
        computed = ForwardPass(y=batch.y, logits=logits, cam=cam, h_t=h_t, h_r=h_r, h_c=h_c)
        if self.generator is None or h_c is None:
            return computed
        omega = self.omega(computed)
        if "logits_c" in self.needs:
            absent = torch.cat([torch.zeros_like(h_c), h_c], 1)
            logits_c = self.classifier(absent, running_statistics=True)[0].float()
            computed = computed._replace(logits_c=logits_c)
        if "d_tc" in self.needs:
            computed = computed._replace(d_tc=eq.d_tc(h_t, h_c, omega))
        if "d_rc" in self.needs and h_r is not None:
            computed = computed._replace(d_rc=eq.d_rc(h_r, h_c))
        if self.discriminator is not None and h_r is not None:
            masked = DISCRIMINATOR_INPUT[self.config.variant]
            both = torch.cat([masked(h_r, omega), masked(h_c, omega)])
            real, fake = self.discriminator(both).float().chunk(2)
            computed = computed._replace(real=real, fake=fake)
        return computed

    def omega(self, computed: ForwardPass) -> Tensor:
        """Omega `(B, h, w)`, from the feedback or from the distance (readings 6 and 15)."""
        assert computed.h_c is not None  # noqa: S101  (called only with a generator)
        if self.config.triplet is Triplet.NON_FEEDBACK:
            evidence = eq.distance_map(computed.h_t, computed.h_c)
        else:
            chosen = CAM_CLASS[self.config.cam_class](computed.logits, computed.y)
            evidence = of_class(computed.cam, chosen)
        return eq.lesion_map(evidence if self.config.omega_gradient else evidence.detach())

    def _features(self, batch: Batch, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Features of these fields of the batch, in one pass through the backbone; H_C if there is a G."""
        present = {name: image for name in names if (image := getattr(batch, name)) is not None}
        if absent := [name for name in names if name not in present]:
            raise ConfigError(
                f"bilateral={self.config.bilateral} needs the {absent[0]} image but these pairs have none "
                "(only phantoms have a true counterfactual): choose another value or other pairs"
            )
        image_level = self.generator is not None and self.config.generator_level is GeneratorLevel.IMAGE
        if image_level:
            present["counterfactual"] = self._generate(present)
        h = self.backbone(torch.cat(list(present.values()))).float().chunk(len(present))
        named: dict[str, Tensor] = dict(zip(present, h, strict=True))
        if self.generator is not None and not image_level:
            named["counterfactual"] = self._generate(named)
        return named

    def _generate(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Eq. 7, on features or on images."""
        assert self.generator is not None  # noqa: S101  (called only with a generator)
        mix = GENERATOR_INPUT[self.config.bilateral]
        target = inputs["target"]
        generated: Tensor = self.generator(mix(target, inputs.get("reference", target), self.config.alpha))
        return generated.float()

    def _classify(self, h: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and the target's maps. SFF averages the logits of two views, hence their pooled features."""
        h_t = h["target"]
        second = h_t - h["counterfactual"] if "counterfactual" in h else h.get("reference")
        views = [h_t if second is None else torch.cat([second, h_t], 1)]
        if "other_target" in h:
            views.append(torch.cat([h["other_reference"], h["other_target"]], 1))
        logits, cam = self.classifier(torch.cat(views))
        return torch.stack(logits.float().chunk(len(views))).mean(0), cam.float().chunk(len(views))[0]


def build(config: Config) -> CGN:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return CGN(config)
