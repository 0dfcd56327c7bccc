"""Every method becomes a model that predicts pairs of films, or is refused in words."""

import numpy as np
import pytest
from matplotlib.text import Text

from cgn import methods, plugins
from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError
from cgn.figures import draw_prediction
from cgn.fit import fit, network_of, predict
from cgn.images import Images, inputs_of
from cgn.predict import Ensemble, write_ensemble
from cgn.results import last

CASES = [
    pytest.param(method, variant, id=" ".join((method, *map(str, variant.values()))))
    for method in plugins.names("cgn.methods")
    for variant in plugins.load("cgn.methods", method).VARIANTS
    if not {"oracle", "sff"} & set(map(str, variant.values()))  # which need more than a pair
]


def configure(method: str, variant: dict) -> Config:
    tiny = Config(backbone="tiny", generator_blocks=1, epochs=1, batch_size=4, learning_rate=1e-3)
    required = getattr(plugins.load("cgn.methods", method), "REQUIRES", {})
    edits = {**variant, **required}
    if "options.healthy" not in edits and methods.build(tiny.edit(method=method, **edits)).healthy:
        edits["options.healthy"] = "references"
    return tiny.edit(method=method, **edits)


@pytest.fixture(scope="module")
def split(cached: Pairs) -> Split:
    rows = np.argsort(cached.label, kind="stable").reshape(2, 6)  # both classes in each part
    return Split(0, *(np.sort(rows[:, part : part + 2].ravel()) for part in (0, 2, 4)))


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_a_model_predicts_what_its_fold_predicted(method, variant, cached, films, split, tmp_path):
    config = configure(method, dict(variant))
    result = last(fit(config, cached, split))
    network = network_of(config, result.state)
    if network.needs_other:
        with pytest.raises(ConfigError, match="needs both views of a breast"):
            write_ensemble(tmp_path / "model", config, {0: result.state}, cached, {})
        return
    write_ensemble(tmp_path / "model", config, {0: result.state}, cached, {})
    with Ensemble.load(tmp_path / "model", processes=1) as ensemble:
        assert ensemble.check() == pytest.approx(0, abs=1e-6)
        served = ensemble.predict(films)
    expected = predict(network, inputs_of(network, Images(cached)), np.arange(len(cached))).p_malignant
    p = [prediction.p_malignant for prediction in served]
    np.testing.assert_allclose(p, expected.double().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.array(p)[split.test], result.predictions.p_malignant, rtol=1e-4, atol=1e-5)


def test_the_picture_of_a_method_without_features_explains_none(cached, films, split, tmp_path):
    config = configure("vanilla", {"options.head": "gap"})
    write_ensemble(tmp_path / "model", config, {0: last(fit(config, cached, split)).state}, cached, {})
    with Ensemble.load(tmp_path / "model", processes=1) as ensemble:
        (prediction,) = ensemble.predict(films[:1])
        figure = draw_prediction(ensemble, prediction)
    words = " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")
    assert "activation map" in words
    assert "strongest channel" not in words
