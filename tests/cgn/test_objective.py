import pytest
import torch

from cgn import objective
from cgn.ablation import Bilateral, Variant
from cgn.config import Config
from cgn.objective import ForwardPass


def names(**switches):
    return [term.name for term in objective.terms(Config().edit(**switches))]


def test_equations_list_their_terms_in_order():
    assert names() == ["l_cls", "l_ad_g", "l_ad_d", "l_ne", "l_ft"]  # Eq. 14
    assert names(variant=Variant.MASKED_ADVERSARY) == ["l_cls", "l_ad_g", "l_ad_d", "l_ne"]  # Eq. 19
    assert names(variant=Variant.DIRECT) == ["l_cls", "l_ad_g", "l_ad_d", "l_ne", "l_fc"]  # Eq. 21
    assert objective.TERM_NAMES == ("l_cls", "l_ad_g", "l_ad_d", "l_ne", "l_ft", "l_fc")


@pytest.mark.parametrize("bilateral", [Bilateral.SBF, Bilateral.GF, Bilateral.SFF, Bilateral.ORACLE])
def test_without_a_generator_only_the_classification_loss_remains(bilateral):
    assert names(bilateral=bilateral) == ["l_cls"]
    assert objective.needs(Config(bilateral=bilateral)) == {"logits"}


def test_needs_are_the_fields_that_the_terms_read():
    needs = objective.needs(Config())
    assert needs == {"logits", "real", "fake", "logits_c", "d_tc", "d_rc"}
    assert needs <= set(ForwardPass._fields)


def test_parts_with_the_same_terms_share_a_backward_pass():
    terms = objective.terms(Config())
    groups = {parts: [term.name for term in own] for parts, own in objective.by_part(terms)}
    assert groups == {
        ("backbone", "classifier"): ["l_cls"],
        ("generator",): ["l_cls", "l_ad_g", "l_ne", "l_ft"],
        ("discriminator",): ["l_ad_d"],
    }


def test_a_term_whose_input_was_not_computed_is_an_error():
    computed = ForwardPass(
        torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3)
    )
    with pytest.raises(TypeError, match=r"see Term.reads"):
        objective.L_NE.value(computed, Config())
