"""Preparing a film and opening a cache, each against the plain way."""

import cv2
import numpy as np
import pytest

from cgn.data.breast import prepare
from cgn.data.cache import open_cache, write_cache
from cgn.data.datasets import phantom

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]


def film(rows=3328, columns=2560, bits=14, label=True):
    """As large and as deep as a digital mammogram: tissue, grain and a bright tag."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:rows, :columns].astype(np.float32)
    inside = (column / (0.62 * columns)) ** 2 + ((row - rows / 2) / (0.43 * rows)) ** 2 < 1
    coarse = rng.standard_normal((40, 30), dtype=np.float32)
    tissue = 6000 + 500 * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    image = np.where(inside, tissue, 60) + 30 * rng.standard_normal((rows, columns), dtype=np.float32)
    if label:
        image[200:500, 2200:2450] = 16000
    return np.clip(image, 0, 2**bits - 1).astype(np.uint16)


def plain(image, bits, size):
    """Sec. IV-A as one would first write it down, on the whole film."""
    grey = (image.astype(np.float32) / (2**bits - 1) * 255).astype(np.uint8)
    _, bright = cv2.threshold(grey, 0, 1, cv2.THRESH_OTSU)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bright)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x0, y0, width, height = (int(v) for v in stats[largest, : cv2.CC_STAT_AREA])
    breast = np.where(labels == largest, grey, 0)[y0 : y0 + height, x0 : x0 + width]
    return cv2.resize(breast, (size, size), interpolation=cv2.INTER_AREA), (x0, y0, width, height)


@pytest.mark.parametrize("label", [False, True], ids=["bare", "labelled"])
def test_preparation(measure, say, label):
    """A decoded film of 3328 x 2560 pixels and 16 bits; at least 3 times faster, the same box within 1 %."""
    cv2.setNumThreads(1)
    image = film(label=label)
    pixels, box = plain(image, 14, 224)
    ours = prepare(image, 14, "left", 224)
    apart = max(abs(a - b) for a, b in zip(corners(box), corners(ours.crop), strict=True))
    assert apart <= 0.01 * min(image.shape)
    assert np.abs(pixels[8:-8, 8:-8].astype(int) - ours.pixels[8:-8, 8:-8]).mean() < 2
    seconds = measure(
        {"plain": lambda: plain(image, 14, 224), "ours": lambda: prepare(image, 14, "left", 224)}, rounds=15
    )
    ratio = seconds["plain"] / seconds["ours"]
    say(
        f"preparing a film of 3328 x 2560, {'with a' if label else 'no'} label: plain "
        f"{1e3 * seconds['plain']:.0f} ms, ours {1e3 * seconds['ours']:.0f} ms, ratio {ratio:.1f} (goal 3); "
        f"boxes {apart} pixels apart"
    )
    assert ratio >= 3


def corners(box):
    x0, y0, width, height = box
    return x0, y0, x0 + width, y0 + height


def test_opening_a_cache(measure, say, tmp_path):
    """91 pairs at 224; under 50 ms, checksums and all, and at least 100 times faster than preparing them."""
    options = phantom.Options(pairs=91)
    report = write_cache("phantom", options, out=tmp_path / "cache")
    assert report.fresh
    seconds = measure({"open": lambda: open_cache(report.path)}, rounds=15)["open"]
    ratio = report.seconds / seconds
    say(
        f"opening 91 pairs at 224: {1e3 * seconds:.0f} ms (goal 50), preparing them {report.seconds:.1f} s "
        f"({report.images_per_second:.0f} images/s), ratio {ratio:.0f} (goal 100)"
    )
    assert seconds < 0.050
    assert ratio >= 100
