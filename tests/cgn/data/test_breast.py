import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgn.data.breast import Preprocessing, find_breast, prepare, to_cached, to_source, to_uint8
from cgn.data.datasets import phantom
from cgn.errors import ConfigError, Reason, UnreadableImageError

WALLS = st.sampled_from(["left", "right"])


def drawn(wall="left", rows=300, columns=240, value=120, dtype=np.uint8):
    """A breast at columns 20-180 and rows 30-270 its chest wall on the left."""
    row, column = np.mgrid[:rows, :columns]
    inside = (((column - 20) / 160) ** 2 + ((row - 150) / 120) ** 2 < 1) & (column >= 20)
    image = np.where(inside, value, 0).astype(dtype)
    return np.ascontiguousarray(image[:, ::-1]) if wall == "right" else image


@st.composite
def boxes_in_crops(draw):
    width, height = draw(st.integers(1, 4000)), draw(st.integers(1, 4000))
    crop = draw(st.integers(0, 500)), draw(st.integers(0, 500)), width, height
    x0, x1 = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    return (float(crop[0] + x0), float(crop[1] + y0), float(crop[0] + x1), float(crop[1] + y1)), crop


@given(boxes_in_crops(), WALLS, st.integers(8, 512))
def test_a_box_in_the_crop_comes_back_from_the_cached_image(case, wall, size):
    box, crop = case
    cached = to_cached(box, crop, wall, size)
    assert cached is not None
    assert 0 <= cached[0] < cached[2] <= size
    assert 0 <= cached[1] < cached[3] <= size
    assert to_source(cached, crop, wall, size) == pytest.approx(box, abs=1e-6)


@given(st.integers(40, 120), st.integers(80, 210), st.integers(5, 25), WALLS, st.sampled_from([64, 96, 224]))
def test_a_mark_stays_inside_its_box_through_crop_flip_and_resize(x, y, half, wall, size):
    image = drawn(value=100)
    image[y - half : y + half, x - half : x + half] = 255
    box = (x - half, y - half, x + half, y + half)
    if wall == "right":
        image = np.ascontiguousarray(image[:, ::-1])
        box = (240 - box[2], box[1], 240 - box[0], box[3])
    prepared = prepare(image, 8, wall, size, [box])
    (mapped,) = prepared.boxes
    rows, columns = np.nonzero(prepared.pixels > 178)  # halfway between tissue and mark
    extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert extent == pytest.approx(mapped, abs=1)


@pytest.mark.parametrize("wall", ["left", "right"])
def test_the_chest_wall_ends_on_the_left(wall):
    pixels = prepare(drawn(wall), 8, wall, 96).pixels
    assert np.count_nonzero(pixels[:, 0]) > 80
    assert np.count_nonzero(pixels[:, -1]) < 30


def test_both_sides_of_a_symmetric_woman_look_alike():
    left, right = (prepare(drawn(side), 8, side, 96).pixels for side in ("left", "right"))
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("wall", ["left", "right"])
def test_a_mirrored_film_is_refused(wall):
    with pytest.raises(UnreadableImageError, match=f"must be on the {wall}"):
        prepare(drawn(wall)[:, ::-1], 8, wall, 96)


def test_the_box_of_the_breast_is_found_beside_border_and_label():
    image = drawn()
    image[:, 225:] = 250  # a scanner's white border
    image[35:70, 190:215] = 255  # a label, in the corner of the film
    x0, y0, width, height = find_breast(image, 8).crop
    assert (x0, y0, x0 + width, y0 + height) == pytest.approx((20, 30, 180, 270), abs=5)


def test_a_label_within_the_crop_is_painted_out_and_faint_tissue_is_kept():
    image = drawn()
    image[40:70, 150:175] = 255  # beside the breast, within its box
    image[(image == 0) & (np.arange(240) > 19)] = 4  # faint
    pixels = prepare(image, 8, "left", 240).pixels
    assert pixels.max() < 130
    assert np.count_nonzero(pixels == 4) > 500
    masked = prepare(image, 8, "left", 240, background="mask").pixels
    assert np.count_nonzero(masked == 4) < np.count_nonzero(pixels == 4) / 5
    assert np.count_nonzero(masked > 100) == pytest.approx(np.count_nonzero(pixels > 100), rel=0.03)


def test_an_island_of_dense_tissue_in_the_breast_is_no_label():
    image = drawn(value=120)
    cv2.circle(image, (80, 150), 40, 0, -1)
    cv2.circle(image, (80, 150), 20, 200, -1)
    pixels = prepare(image, 8, "left", 240).pixels
    assert pixels.max() == 200


@pytest.mark.parametrize("bits", [9, 12, 14, 16])
def test_depth_is_a_fixed_linear_scale(bits):
    top = 2**bits - 1
    stored = np.array([[0, top // 2, top]], np.uint16)
    assert to_uint8(stored, bits).tolist() == [[0, 127, 255]]
    half_lit = np.array([[0, top // 4]], np.uint16)
    assert to_uint8(half_lit, bits).max() < 66  # never stretched to the image's own maximum


@pytest.mark.parametrize("bits", range(8, 17))
def test_every_stored_value_is_rounded_as_the_formula_says(bits):
    values = np.arange(2**bits, dtype=np.uint8 if bits == 8 else np.uint16).reshape(2, -1)
    expected = np.round(values * (255 / (2**bits - 1)))
    np.testing.assert_array_equal(to_uint8(values, bits), expected)


def test_a_breast_reaches_the_edge_of_a_film_that_does_not_divide_evenly():
    image = np.zeros((333, 259), np.uint8)
    image[:, 100:] = 120
    assert find_breast(image, 8).crop == pytest.approx((100, 0, 159, 333), abs=3)
    x0, y0, width, height = find_breast(image, 8).crop
    assert (x0 + width, y0 + height) == (259, 333)


def test_a_strip_is_no_film():
    with pytest.raises(UnreadableImageError, match="are a strip") as caught:
        find_breast(np.zeros((5000, 3), np.uint8), 8)
    assert caught.value.reason == Reason.NO_BREAST


def test_the_depth_does_not_change_the_prepared_image():
    image = drawn()
    image[100:130, 60:90] = 180
    deep = (image.astype(np.uint16) * 257).astype(np.uint16)
    a, b = prepare(image, 8, "left", 96), prepare(deep, 16, "left", 96)
    assert a.crop == b.crop
    np.testing.assert_array_equal(a.pixels, b.pixels)


def test_values_beyond_the_depth_are_refused():
    with pytest.raises(UnreadableImageError, match="fit into 12 bits but reach 4096"):
        to_uint8(np.array([[4096]], np.uint16), 12)


@pytest.mark.parametrize(
    "image",
    [np.zeros((200, 200), np.uint8), np.full((200, 200), 90, np.uint8), np.pad(drawn()[150:156, 20:26], 200)],
    ids=["black", "grey", "speck"],
)
def test_an_image_without_a_breast_is_refused(image):
    with pytest.raises(UnreadableImageError, match="no breast"):
        prepare(image, 8, "left", 96)


def test_a_box_outside_of_the_breast_is_dropped_and_a_crossing_one_is_clipped():
    prepared = prepare(drawn(), 8, "left", 96, [(220, 10, 230, 20), (0, 100, 60, 140)])
    ((x0, _, x1, _),) = prepared.boxes
    assert x0 == 0
    assert 0 < x1 < 40


def test_the_counterfactual_is_cropped_as_its_target():
    target = drawn()
    target[120:150, 170:220] = 200  # a lesion that widens the breast
    region = find_breast(target, 8)
    assert find_breast(drawn(), 8).crop != region.crop
    assert prepare(drawn(), 8, "left", 96, region=region).crop == prepare(target, 8, "left", 96).crop


def test_no_part_of_a_breast_is_painted_out() -> None:
    """A nodule in faint tissue, beyond the hull of bright tissue, belongs to the breast; the tag does not."""
    for record in phantom.scan(phantom.Options(pairs=60), 96).records:
        for film in record.load()[:2]:
            region = find_breast(film.pixels, film.bits)
            x0, y0, width, height = region.crop
            step = round(film.pixels.shape[0] / region.breast.shape[0])
            rows, columns = slice(y0 // step, (y0 + height) // step), slice(x0 // step, (x0 + width) // step)
            assert not region.foreign[rows, columns].any(), record.pair_id
            assert region.foreign.any()  # the tag


@pytest.mark.parametrize("wall", ["left", "right"])
def test_without_a_stated_chest_wall_the_shape_decides(wall):
    by_shape, stated = prepare(drawn(wall), 8, None, 96), prepare(drawn(wall), 8, wall, 96)
    assert by_shape.chest_wall == wall
    np.testing.assert_array_equal(by_shape.pixels, stated.pixels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 4}, r"size must lie in \[8, 4096\] pixels but got 4"),
        ({"background": "blur"}, "background must be 'keep' or 'mask' but got 'blur'"),
    ],
)
def test_impossible_preprocessing_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**values)


@pytest.mark.parametrize("wall", ["left", "right"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_negative_is_refused(wall, bits):
    film = drawn(wall, dtype=np.uint8 if bits == 8 else np.uint16) * np.uint8(1)
    negative = (2**bits - 1 - film.astype(np.int64) * 2 ** (bits - 8)).astype(film.dtype)
    with pytest.raises(UnreadableImageError, match="is a negative") as caught:
        prepare(negative, bits, wall, 64)
    assert caught.value.reason is Reason.NEGATIVE


def test_a_breast_that_fills_its_film_is_no_negative():
    film = np.full((300, 240), 150, np.uint8)
    film[:, 225:] = 5
    assert find_breast(film, 8).crop[2] > 200
