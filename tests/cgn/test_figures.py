import matplotlib.image
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from cgn import figures
from cgn.ablation import Bilateral, Triplet
from cgn.errors import ConfigError
from cgn.fit import Images, fit, last, network_of
from cgn.metrics import box_from_cam

FILMS = np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8)
TRUTHS = [((4.0, 6.0, 14.0, 20.0),), (), ((0.0, 0.0, 5.0, 5.0), (20.0, 20.0, 30.0, 28.0))]
BOXES = [(1.0, 2.0, 11.0, 12.0)] * 3
PLACES = figures.Places(np.random.default_rng(1).random((3, 4, 4)), BOXES)


def drawn(axes, colour) -> list[tuple[float, ...]]:
    """Boxes of that colour, in pixels, x1 and y1 exclusive."""
    return [
        (p.get_x() + 0.5, p.get_y() + 0.5, p.get_x() + 0.5 + p.get_width(), p.get_y() + 0.5 + p.get_height())
        for p in axes.patches
        if isinstance(p, Rectangle) and p.get_edgecolor() == matplotlib.colors.to_rgba(colour)
    ]


def columns(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_fig_4_shows_lesions_in_green_and_each_method_s_place():
    figure = figures.fig4(FILMS, FILMS, TRUTHS, {"SBF": PLACES, "CGN": PLACES})
    assert columns(figure) == ["target", "reference", "lesions", "SBF", "CGN"]
    last_row = figure.axes[10:]
    assert drawn(last_row[2], figures.TRUTH) == list(TRUTHS[2])
    assert drawn(last_row[4], figures.PREDICTED) == [BOXES[2]]
    assert np.array_equal(last_row[0].images[0].get_array(), FILMS[2])
    assert not drawn(last_row[1], figures.TRUTH)


def test_fig_5_has_one_scale_of_brightness_a_row():
    features = np.random.default_rng(2).random((3, 8, 4, 4))
    maps = {"H_T": figures.strongest(features), "H_C": figures.strongest(features) / 10}
    assert np.array_equal(maps["H_T"], features.max(1))
    figure = figures.fig5(FILMS, FILMS, TRUTHS, maps)
    assert columns(figure) == ["target", "lesions", "reference", "H_T", "H_C"]
    limits = {figure.axes[k].images[0].get_clim() for k in (3, 4)}
    assert limits == {(maps["H_C"][0].min(), maps["H_T"][0].max())}
    assert drawn(figure.axes[4], figures.TRUTH) == list(TRUTHS[0])


def test_fig_6_goes_by_epochs():
    figure = figures.fig6(FILMS, FILMS, TRUTHS, {20: PLACES, 10: PLACES})
    assert columns(figure) == ["target", "reference", "lesions", "epoch 10", "epoch 20"]
    assert drawn(figure.axes[4], figures.PREDICTED) == [BOXES[0]]


def test_there_are_as_many_maps_as_pairs():
    with pytest.raises(ValueError, match="as many of each as pairs"):
        figures.fig6(FILMS, FILMS, TRUTHS, {10: PLACES._replace(boxes=BOXES[:2])})


@pytest.mark.parametrize("frozen", [False, True])
def test_a_fold_is_drawn_with_what_it_looked_at_while_it_trained(frozen, tiny, pairs, splits, tmp_path):
    config, images, index = tiny.edit(epochs=5, frozen_backbone=frozen), Images(pairs), splits[0].test[:2]
    watched = figures.Snapshots(config, images, index, every=2)
    result = last(fit(config, images, splits[0], memory=watched))
    cams, boxes = figures.places_of(network_of(config, result.state), images, index)
    assert boxes == [box_from_cam(cam, pairs.size) for cam in cams]
    assert np.array(boxes) == pytest.approx(result.predictions.box[:2])
    drawings = watched.figures(result)
    assert list(drawings) == ["fig4", "fig5", "fig6"]
    assert columns(drawings["fig5"])[3:] == ["H_T", "H_R", "H_C", "true H_C"]
    epochs = sorted({2, 4, result.best_epoch + 1})
    assert columns(drawings["fig6"])[3:] == [f"epoch {epoch}" for epoch in epochs]
    figures.save(drawings["fig4"], tmp_path / "new" / "fig4.png")
    assert matplotlib.image.imread(tmp_path / "new" / "fig4.png").std() > 0


def test_fig_6_shows_the_network_as_it_stood(tiny, pairs, splits, monkeypatch):
    """After two epochs it is the same whether two more follow or one."""
    images, index, seen = Images(pairs), splits[0].test[:2], {}
    monkeypatch.setattr(figures, "fig6", lambda *arguments: seen.update(arguments[-1]))
    config = tiny.edit(epochs=4)
    watched = figures.Snapshots(config, images, index, every=2)
    watched.figures(last(fit(config, images, splits[0], memory=watched)))
    states = figures.Snapshots(config, images, index, every=1)
    last(fit(config.edit(epochs=3), images, splits[0], memory=states))
    network = network_of(config, states._models[2])
    assert np.array_equal(seen[2].cams, figures.places_of(network, images, index).cams)


def test_looking_does_not_change_what_is_trained(tiny, pairs, splits):
    plain = last(fit(tiny, pairs, splits[0]))
    images = Images(pairs)
    watched = figures.Snapshots(tiny, images, splits[0].test[:2], every=1)
    assert np.array_equal(
        last(fit(tiny, images, splits[0], memory=watched)).predictions.p_malignant,
        plain.predictions.p_malignant,
    )


def test_fig_5_is_left_out_where_nothing_is_generated(tiny, pairs, splits):
    config = tiny.edit(bilateral=Bilateral.NONE, negative_embedding=False, triplet=Triplet.NONE)
    network = network_of(config, last(fit(config, pairs, splits[0])).state)
    assert list(figures.of_network(network, Images(pairs), splits[0].test[:1])) == ["fig4"]


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        figures.save(figures.fig6(FILMS, FILMS, TRUTHS, {1: PLACES}), tmp_path / "file" / "fig6.png")
