"""The configuration of a run: one frozen, validated, hashable value. A variant is an edit of another one.

>>> Config().edit(alpha=0.3).alpha
0.3
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cgn import options as method_options
from cgn.ablation import (
    Adversarial,
    Bilateral,
    CamClass,
    CounterfactualGradient,
    GeneratorLevel,
    Triplet,
    Variant,
)
from cgn.errors import ConfigError


class Config(BaseModel):
    """Sec. III-B and IV-A. Everything that changes the result of a run, and nothing else.

    Defaults are the paper's values where it prints them (epochs, learning rate, generator blocks, loss
    terms), and those of `docs/readings.md` otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str = Field("cgn", description="module of cgn.methods")
    backbone: str = Field("alexnet", description="module of cgn.backbones")
    backbone_weights: str = Field(
        "none", description="'none', 'imagenet' (torchvision, downloaded once) or the path of a state dict"
    )
    frozen_backbone: bool = Field(
        False,
        description="compute the backbone's features once and train on them: fast, but another setting",
    )
    options: dict[str, method_options.Value] = Field(
        default_factory=dict,
        exclude_if=lambda options: not options,
        description="settings of the method by its file's `Options`, written options.NAME; those that equal "
        "their default are left out",
    )
    feature_channels: int | None = Field(
        None,
        ge=1,
        description="channels after a 1x1 projection; None projects only from more than 512",
    )
    generator_blocks: int = Field(9, ge=1, le=32, description="residual blocks of G (Sec. III-B)")

    alpha: float = Field(0.5, ge=0, le=1, description="Eq. 7, interpolation weight; the paper gives no value")
    beta: float = Field(1.0, ge=0, description="Eq. 12, margin in the unit of d_tc; the paper gives no value")
    learning_rate: float = Field(5e-5, gt=0, le=1, description="Adam, all networks")
    batch_size: int = Field(8, ge=2, description="pairs per step; the paper gives no value")
    epochs: int = Field(50, ge=1)

    bilateral: Bilateral = Bilateral.ADAIN_GAN
    negative_embedding: bool = Field(True, description="L_NE, Eq. 13")
    triplet: Triplet = Triplet.FEEDBACK
    variant: Variant = Variant.PROPOSED
    generator_level: GeneratorLevel = GeneratorLevel.FEATURE

    cam_class: CamClass = CamClass.PREDICTED
    omega_gradient: bool = Field(False, description="let gradients flow through Omega (reading 6)")
    adversarial: Adversarial = Adversarial.NON_SATURATING
    counterfactual_gradient: CounterfactualGradient = CounterfactualGradient.GENERATOR
    loss_weights: dict[str, float] = Field(
        default_factory=dict, description="weight of each term of the objective by its name; 1 if absent"
    )

    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16 is autocast and changes results")
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _only_fields(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        dotted = {name: values[name] for name in values if name.startswith(method_options.PREFIX)}
        fields = {name: value for name, value in values.items() if name not in dotted}
        if unknown := sorted(set(fields) - set(cls.model_fields)):
            near = difflib.get_close_matches(unknown[0], cls.model_fields, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"no field {unknown[0]!r}; {hint}the fields are {', '.join(sorted(cls.model_fields))}"
            )
        if dotted:
            own = {name.removeprefix(method_options.PREFIX): value for name, value in dotted.items()}
            fields["options"] = {**fields.get("options", {}), **own}
        return fields

    @field_validator("options")
    @classmethod
    def _of_the_method(cls, values: dict[str, method_options.Value], info: ValidationInfo) -> dict[str, Any]:
        known = {"method", "backbone"} <= set(info.data)  # an invalid one is reported by itself
        if not values or not known:
            return values
        return method_options.canonical(info.data["method"], info.data["backbone"], values)

    @model_validator(mode="after")
    def _images_need_the_backbone(self) -> Self:
        if self.frozen_backbone and self.generator_level is GeneratorLevel.IMAGE:
            raise ValueError(
                "frozen_backbone=true computes features once but generator_level=image needs new ones in "
                "each step: choose one of the two"
            )
        return self

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Config":
        """A configuration from plain values.

        Raises:
            ConfigError: one line that names the field, the requirement and the value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError("; ".join(_plain(e) for e in error.errors())) from None

    def edit(self, **changes: Any) -> "Config":
        """The same configuration with these fields changed. Raises ConfigError as `of` does.

        An option is changed by its dotted name (`**{"options.NAME": value}`). Another method starts from its
        own defaults: the options of the old one are dropped.
        """
        values = self.model_dump()
        if changes.get("method", self.method) != self.method:
            values.pop("options", None)
        return Config.of({**values, **changes})

    def value(self, name: str) -> Any:
        """The plain value of a field, or of an option by its dotted name. Raises ConfigError."""
        if name.startswith(method_options.PREFIX):
            given = method_options.load(self.method, self.backbone, self.options)
            return method_options.value(given, self.method, name.removeprefix(method_options.PREFIX))
        return self.model_dump(mode="json")[name] if name != "options" else dict(self.options)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits; equal configurations have equal fingerprints."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _plain(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    return f"{field}: {message} but got {error['input']!r}" if field else message
