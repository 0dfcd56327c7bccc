"""Phantoms as files: reading them gives the phantoms back."""

from pathlib import Path

import numpy as np
import pytest

from cgn.data.breast import Preprocessing
from cgn.data.cache import open_cache, write_cache
from cgn.data.datasets import manifest, phantom
from cgn.data.folds import SplitPlan
from cgn.data.phantom_films import write_films
from cgn.data.reading import raster
from cgn.errors import ConfigError

OPTIONS = phantom.Options(pairs=6, seed=7)


def test_a_cache_of_the_files_is_the_cache_of_the_phantoms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_films(tmp_path / "drawn", OPTIONS, 32)
    write_cache("phantom", OPTIONS, Preprocessing(32), SplitPlan(3), out=tmp_path / "a")
    options = manifest.Options(file=table, name="drawn")
    monkeypatch.setenv("CGN_KEY_FILE", str(tmp_path / "key"))
    write_cache("manifest", options, Preprocessing(32), SplitPlan(3), out=tmp_path / "b")
    drawn, read = open_cache(tmp_path / "a"), open_cache(tmp_path / "b")
    assert sorted(read.label.tolist()) == sorted(drawn.label.tolist())
    by_box = {
        np.round(boxes, 3).tobytes(): image.astype(int)
        for boxes, image in zip(drawn.boxes, drawn.target, strict=True)
    }
    for boxes, image in zip(read.boxes, read.target, strict=True):
        # 16 bits of which the lowest two are empty: full scale is three of 65,535 short
        assert np.abs(by_box[np.round(boxes, 3).tobytes()] - image).max() <= 1


def test_values_use_all_bits(tmp_path: Path) -> None:
    table = write_films(tmp_path / "drawn", OPTIONS, 32)
    for path in table.parent.glob("*.png"):
        pixels, bits = raster.read(path)
        assert bits == 16
        assert pixels.max() > 2**14


def test_nothing_is_written_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="into an empty folder"):
        write_films(tmp_path, OPTIONS, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ConfigError, match="cannot be drawn"):
        write_films(tmp_path / "mine.txt", OPTIONS, 32)
