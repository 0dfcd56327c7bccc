import shutil

import pytest

from cgn import sealed
from cgn.errors import ModelError
from cgn.predict import Ensemble, read_facts


@pytest.mark.parametrize("name", ["fold_1.safetensors", "probe.safetensors", "probe.json", "model.json"])
@pytest.mark.parametrize("damage", ["a bit", "missing"])
def test_a_damaged_file_is_refused_by_its_name(folder, tmp_path, name, damage):
    place = tmp_path / "copy"
    shutil.copytree(folder, place)
    content = bytearray((place / name).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "a bit":
        (place / name).write_bytes(content)
    else:
        (place / name).unlink()
    with pytest.raises(ModelError, match=name):
        Ensemble.load(place)


def test_changed_facts_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    facts = tmp_path / "copy" / "model.json"
    facts.write_text(facts.read_text().replace('"squares"', '"circles"').replace('"phantom', '"elephant'))
    with pytest.raises(ModelError, match=r"model.json of the model .* is damaged \(its sha256 differs\)"):
        read_facts(tmp_path / "copy")


def test_another_format_is_refused(folder, tmp_path):
    facts = read_facts(folder)
    (tmp_path / "model.json").write_bytes(sealed.seal(facts | {"format": 99}))
    with pytest.raises(ModelError, match="has format 99 but this version reads format 1"):
        read_facts(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no model in .*: model.json: No such file"):
        Ensemble.load(tmp_path)
