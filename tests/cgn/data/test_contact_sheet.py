import cv2
import pytest

from cgn.data.contact_sheet import CAPTION, write_contact_sheet
from cgn.errors import ConfigError


def test_boxes_are_drawn_on_the_target(pairs, tmp_path):
    path = tmp_path / "sheet.png"
    write_contact_sheet(pairs, [1, 0, 3], path)
    sheet = cv2.imread(str(path))
    assert sheet.shape == (2 * (pairs.size + CAPTION), 2 * 3 * pairs.size, 3)
    x0, y0, x1, y1 = (int(v) for v in pairs.boxes[1][0])
    for corner in ((y0, x0), (y1 - 1, x1 - 1)):
        assert sheet[CAPTION + corner[0], corner[1]].tolist() == [60, 60, 255]
        assert sheet[CAPTION + corner[0], corner[1] + pairs.size].tolist() != [60, 60, 255]


def test_what_cannot_be_drawn(pairs, tmp_path):
    with pytest.raises(ConfigError, match="at least one pair"):
        write_contact_sheet(pairs, [], tmp_path / "sheet.png")
    with pytest.raises(ConfigError, match=r"must be a \.png file in an existing folder"):
        write_contact_sheet(pairs, [0], tmp_path / "nowhere" / "sheet.png")
