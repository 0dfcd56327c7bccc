import matplotlib.image
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from cgn import figures
from cgn.ablation import Bilateral, Triplet
from cgn.errors import ConfigError
from cgn.fit import fit, last, network_of
from cgn.images import Images
from cgn.metrics import box_from_cam

FILMS = np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8)
TRUTHS = [((4.0, 6.0, 14.0, 20.0),), (), ((0.0, 0.0, 5.0, 5.0), (20.0, 20.0, 30.0, 28.0))]
BOXES = [(1.0, 2.0, 11.0, 12.0)] * 3
LOCALISATIONS = figures.Localisations(np.random.default_rng(1).random((3, 4, 4)), BOXES)


def drawn(axes, colour) -> list[tuple[float, ...]]:
    """Boxes of this colour, in pixels, x1 and y1 exclusive."""
    return [
        (p.get_x() + 0.5, p.get_y() + 0.5, p.get_x() + 0.5 + p.get_width(), p.get_y() + 0.5 + p.get_height())
        for p in axes.patches
        if isinstance(p, Rectangle) and p.get_edgecolor() == matplotlib.colors.to_rgba(colour)
    ]


def columns(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_fig_4_shows_lesions_in_green_and_the_localisation_of_each_method():
    figure = figures.fig4(FILMS, FILMS, TRUTHS, {"SBF": LOCALISATIONS, "CGN": LOCALISATIONS})
    assert columns(figure) == ["target", "reference", "lesions", "SBF", "CGN"]
    last_row = figure.axes[10:]
    assert drawn(last_row[2], figures.TRUTH) == list(TRUTHS[2])
    assert drawn(last_row[4], figures.PREDICTED) == [BOXES[2]]
    assert np.array_equal(last_row[0].images[0].get_array(), FILMS[2])
    assert not drawn(last_row[1], figures.TRUTH)


def explained(figure) -> list[str]:
    """The keys of the legend."""
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_colours_frames_and_boxes_are_explained_in_the_picture():
    target, lesion, location = "target: the film with a finding", "annotated lesion", "predicted location"
    maps = {"H_T": LOCALISATIONS.cams, "H_C": LOCALISATIONS.cams}
    drawings = {
        "fig4": figures.fig4(FILMS, FILMS, TRUTHS, {"CGN": LOCALISATIONS}),
        "fig5": figures.fig5(FILMS, FILMS, TRUTHS, maps),
        "fig6": figures.fig6(FILMS, FILMS, TRUTHS, {10: LOCALISATIONS}),
        "unlabelled": figures.unlabelled(FILMS, FILMS, LOCALISATIONS, maps),
    }
    assert {name: explained(figure) for name, figure in drawings.items()} == {
        "fig4": [target, lesion, location],
        "fig5": [lesion],
        "fig6": [lesion, location],
        "unlabelled": [location],
    }
    words = {name: figure.legends[0].get_title().get_text() for name, figure in drawings.items()}
    assert all("activation map" in words[name] for name in ("fig4", "fig6", "unlabelled"))
    assert all("own colour scale" in words[name].replace("\n", " ") for name in ("fig5", "unlabelled"))


def test_fig_5_has_a_colour_scale_and_a_bar_for_each_kind_of_features():
    features = np.random.default_rng(2).random((3, 8, 4, 4))
    maps = {"H_T": figures.strongest(features), "H_C": figures.strongest(features) / 10}
    assert np.array_equal(maps["H_T"], features.max(1))
    figure = figures.fig5(FILMS, FILMS, TRUTHS, maps)
    assert columns(figure) == ["target", "lesions", "reference", "H_T", "H_C"]
    bars = figure.axes[-2:]
    for column, (tile, bar) in zip(maps.values(), zip(figure.axes[3:5], bars, strict=True), strict=True):
        assert tile.images[0].get_clim() == (column.min(), column.max())
        assert bar.get_xlim() == (column.min(), column.max())
        assert [tick.get_text() for tick in bar.get_xticklabels()] == [
            f"{column.min():.2g}", f"{column.max():.2g}"
        ]  # fmt: skip
    assert drawn(figure.axes[4], figures.TRUTH) == list(TRUTHS[0])


def test_fig_6_is_ordered_by_epochs():
    figure = figures.fig6(FILMS, FILMS, TRUTHS, {20: LOCALISATIONS, 10: LOCALISATIONS})
    assert columns(figure) == ["target", "reference", "lesions", "epoch 10", "epoch 20"]
    assert drawn(figure.axes[4], figures.PREDICTED) == [BOXES[0]]


def test_all_inputs_have_one_entry_per_pair():
    with pytest.raises(ValueError, match=r"one entry per pair, .* lengths are 3 and \[3, 3, 3, 2\]"):
        figures.fig6(FILMS, FILMS, TRUTHS, {10: LOCALISATIONS._replace(boxes=BOXES[:2])})


@pytest.mark.parametrize("frozen", [False, True])
def test_a_fold_is_drawn_with_its_snapshots(frozen, tiny, pairs, splits, tmp_path):
    config, images, index = tiny.edit(epochs=5, frozen_backbone=frozen), Images(pairs), splits[0].test[:2]
    snapshots = figures.Snapshots(config, images, index, checkpoint_every=2)
    result = last(fit(config, images, splits[0], checkpoints=snapshots))
    cams, boxes = figures.localisations_of(network_of(config, result.state), images, index)
    assert boxes == [box_from_cam(cam, pairs.size) for cam in cams]
    assert np.array(boxes) == pytest.approx(result.predictions.box[:2])
    drawings = snapshots.figures(result)
    assert list(drawings) == ["fig4", "fig5", "fig6"]
    assert columns(drawings["fig5"])[3:] == ["H_T", "H_R", "H_C", "true H_C"]
    epochs = sorted({2, 4, result.best_epoch + 1})
    assert columns(drawings["fig6"])[3:] == [f"epoch {epoch}" for epoch in epochs]
    figures.save(drawings["fig4"], tmp_path / "new" / "fig4.png")
    assert matplotlib.image.imread(tmp_path / "new" / "fig4.png").std() > 0


def test_fig_6_shows_the_network_after_the_named_epoch(tiny, pairs, splits, monkeypatch):
    """The snapshot after two epochs is the same whether one or two more epochs follow."""
    images, index = Images(pairs), splits[0].test[:2]

    def history(epochs):
        shown = {}
        monkeypatch.setattr(figures, "fig6", lambda *arguments: shown.update(arguments[-1]))
        config = tiny.edit(epochs=epochs)
        snapshots = figures.Snapshots(config, images, index, checkpoint_every=1)
        snapshots.figures(last(fit(config, images, splits[0], checkpoints=snapshots)))
        return shown

    short, long = history(3), history(4)
    assert np.array_equal(short[2].cams, long[2].cams)
    assert not np.array_equal(long[1].cams, long[2].cams)


def test_snapshots_do_not_change_the_training(tiny, pairs, splits):
    plain = last(fit(tiny, pairs, splits[0]))
    images = Images(pairs)
    snapshots = figures.Snapshots(tiny, images, splits[0].test[:2], checkpoint_every=1)
    assert np.array_equal(
        last(fit(tiny, images, splits[0], checkpoints=snapshots)).predictions.p_malignant,
        plain.predictions.p_malignant,
    )


def test_there_is_no_fig_5_without_a_generator(tiny, pairs, splits):
    config = tiny.edit(bilateral=Bilateral.NONE, negative_embedding=False, triplet=Triplet.NONE)
    network = network_of(config, last(fit(config, pairs, splits[0])).state)
    assert list(figures.draw_network(network, Images(pairs), splits[0].test[:1])) == ["fig4"]


def test_a_figure_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        figures.save(figures.fig6(FILMS, FILMS, TRUTHS, {1: LOCALISATIONS}), tmp_path / "file" / "fig6.png")
