import dataclasses

import cv2
import numpy as np
import pytest

from cgn.data.contact_sheet import FILM_SIDE, LABELS, LINE, enlargement, write_contact_sheet
from cgn.errors import ConfigError

RED = list(LABELS[1][1])


def test_boxes_are_drawn_on_the_target(pairs, tmp_path):
    path = tmp_path / "sheet.png"
    write_contact_sheet(pairs, [1, 0, 3], path)
    sheet = cv2.imread(str(path))
    times = enlargement(pairs.size)
    side = times * pairs.size
    assert side >= FILM_SIDE
    assert sheet.shape[0] > 2 * (side + LINE)
    assert sheet.shape[1] == 2 * 3 * side
    x0, y0, x1, y1 = (int(times * place) for place in pairs.boxes[1][0])
    for y, x in ((y0, x0), (y1 - 1, x1 - 1)):
        assert sheet[LINE + y, x].tolist() == RED
        assert sheet[LINE + y, x + side].tolist() != RED


def test_a_legend_explains_both_colours_below_the_pairs(pairs, tmp_path):
    path = tmp_path / "sheet.png"
    write_contact_sheet(pairs, [0], path, columns=1)  # a benign pair: red is in the legend only
    sheet = cv2.imread(str(path)).astype(int)
    legend = sheet[LINE + enlargement(pairs.size) * pairs.size :]
    assert len(legend) >= 3 * LINE
    for colour in (LABELS[0][1], LABELS[1][1]):
        assert (np.abs(legend - colour).max(-1) == 0).any()
    assert not (np.abs(sheet[: -len(legend)] - RED).max(-1) == 0).any()


def test_a_long_caption_is_wrapped_not_cut(pairs, tmp_path):
    name = "pair-" + "0" * 32
    long = dataclasses.replace(
        pairs, pair_id=np.array([name] * len(pairs)), kinds=[("mass",) * 12] * len(pairs)
    )
    for number, subject in enumerate((pairs, long)):
        write_contact_sheet(subject, [0, 1], tmp_path / f"{number}.png")
    short, wrapped = (cv2.imread(str(tmp_path / f"{number}.png")) for number in range(2))
    assert wrapped.shape[1] == short.shape[1]
    assert wrapped.shape[0] > short.shape[0]


def test_what_cannot_be_drawn(pairs, tmp_path):
    with pytest.raises(ConfigError, match="at least one pair"):
        write_contact_sheet(pairs, [], tmp_path / "sheet.png")
    with pytest.raises(ConfigError, match=r"must be a \.png file in an existing folder"):
        write_contact_sheet(pairs, [0], tmp_path / "nowhere" / "sheet.png")
