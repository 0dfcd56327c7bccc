import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgn.ablation import Bilateral
from cgn.config import Config
from cgn.errors import ConfigError


def test_defaults_are_the_papers_printed_values():
    config = Config()
    assert (config.epochs, config.learning_rate, config.generator_blocks) == (50, 5e-5, 9)
    assert config.bilateral is Bilateral.ADAIN_GAN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.3}, r"alpha: .*less than or equal to 1 but got 1.3"),
        ({"beta": -1}, r"beta: .*but got -1"),
        ({"alhpa": 0.1}, r"no field 'alhpa'; did you mean 'alpha'. the fields are .*alpha"),
        ({"bilateral": "cyclegan"}, r"bilateral: .*adain_gan.* but got 'cyclegan'"),
        ({"learning_rate": "fast"}, r"learning_rate: .* but got 'fast'"),
    ],
)
def test_an_invalid_value_is_one_line_that_names_the_field(change, message):
    with pytest.raises(ConfigError, match=message) as error:
        Config().edit(**change)
    assert "\n" not in str(error.value)


def test_it_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().alpha = 0.3


@given(st.floats(0, 1), st.floats(0, 1e4), st.sampled_from(Bilateral), st.integers(0, 2**31))
def test_a_round_trip_through_json_keeps_the_fingerprint(alpha, beta, bilateral, seed):
    config = Config(alpha=alpha, beta=beta, bilateral=bilateral, seed=seed)
    again = Config.of(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert again == config
    assert again.fingerprint() == config.fingerprint()


def test_every_field_changes_the_fingerprint():
    base = Config()
    edits = {
        "method": "other", "backbone": "tiny", "backbone_weights": "imagenet", "feature_channels": 8,
        "generator_blocks": 1, "alpha": 0.1, "beta": 2.0, "learning_rate": 0.1, "batch_size": 2, "epochs": 1,
        "bilateral": "sbf", "negative_embedding": False, "triplet": "none", "variant": "direct",
        "cam_class": "label", "omega_gradient": True, "adversarial": "saturating",
        "counterfactual_gradient": "joint", "generator_level": "image", "loss_weights": {"l_ne": 2.0},
        "frozen_backbone": True, "precision": "bf16", "seed": 1, "options": {"gate_on": "difference"},
    }  # fmt: skip
    assert set(edits) == set(Config.model_fields)
    prints = {base.edit(**{field: value}).fingerprint() for field, value in edits.items()}
    assert len(prints | {base.fingerprint()}) == len(edits) + 1


# ---------------------------------------------------------------------------------------- options of a method


def test_options_are_those_of_the_method_and_kept_where_they_differ_from_their_defaults():
    config = Config(method="zhu", options={"sparsity": 0.1, "scheme": "sparse"})
    assert config.options == {"sparsity": 0.1}
    assert config.edit(**{"options.scheme": "max"}).options == {"scheme": "max", "sparsity": 0.1}
    assert config.edit(**{"options.sparsity": 1e-3}) == Config(method="zhu")
    assert config.value("options.sparsity") == 0.1
    assert config.value("options.scheme") == "sparse"
    assert config.value("learning_rate") == 5e-5


def test_a_configuration_without_options_is_written_as_before_they_existed():
    assert "options" not in Config().model_dump(mode="json")
    assert Config.of(Config(method="zhu", options={"assigned": 2}).model_dump()).options == {"assigned": 2}


def test_another_method_drops_the_options_of_the_old_one():
    config = Config(method="zhu", options={"sparsity": 0.1})
    assert config.edit(method="abn").options == {}
    assert config.edit(method="abn", **{"options.map": "attention"}).options == {"map": "attention"}
    assert config.edit(method="zhu", alpha=0.1).options == {"sparsity": 0.1}


def test_options_without_effect_on_a_backbone_are_at_their_default():
    """With ResNet50, Vanilla and Vanilla + GAP of Table I are one network."""
    gap = {"method": "vanilla", "options": {"head": "gap"}}
    assert Config.of(gap | {"backbone": "alexnet"}).options == {"head": "gap"}
    assert Config.of(gap | {"backbone": "resnet50"}) == Config(method="vanilla", backbone="resnet50")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"options.scheme": "mean"},
            "options.scheme: Input should be 'max', 'assign', 'sparse' or 'attention'",
        ),
        ({"options.sparsty": 1}, "method zhu has no option 'sparsty'; did you mean 'sparsity'?"),
        ({"options.sparsity": -1}, "options.sparsity: Input should be greater than or equal to 0 but got -1"),
        ({"method": "asm", "options.x": 1}, "no 'asm' among the methods"),
        ({"method": "crossview", "options.sparsity": 1}, "method crossview has no option 'sparsity'"),
    ],
)
def test_a_wrong_option_is_one_line(values, message):
    with pytest.raises(ConfigError) as error:
        Config.of({"method": "zhu"} | values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
