import re
import shutil
from pathlib import Path

import pytest

from cgn.config import Config
from cgn.errors import ConfigError
from cgn.provenance import (
    ROOT,
    TRAINING_FIELDS,
    code_fingerprint,
    code_version,
    essence,
    fields_read,
    import_closure,
    training_code,
)


def test_equal_code_has_one_name_and_another_line_another(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    prints = []
    for text in ("x = 1\n", "x = 1\n", "x = 2\n"):
        (tmp_path / "sub" / "a.py").write_text(text)
        code_fingerprint.cache_clear()
        prints.append(code_fingerprint(tmp_path))
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 16


def test_code_without_a_repository_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", code_version())
    monkeypatch.setattr("cgn.provenance.ROOT", tmp_path)
    assert code_version() == "unknown"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of `cgn` that a test may edit."""
    return Path(shutil.copytree(ROOT, tmp_path / "cgn", ignore=shutil.ignore_patterns("__pycache__")))


def code(package: Path) -> str:
    training_code.cache_clear()
    return training_code("cgn", "tiny", package)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_decides_no_number_renames_no_unit(package: Path) -> None:
    before = code(package)
    assert before == training_code("cgn", "tiny")
    (package / "methods" / "other.py").write_text("READS = ()\n")
    (package / "backbones" / "alexnet.py").write_text("CHANNELS = 1\n")
    (package / "figures.py").write_text("x = 1\n")
    (package / "statistics" / "comparison.py").write_text("x = 1\n")
    edit(package / "equations.py", "import torch\n", "# a comment\n\nimport torch  # another one\n")
    edit(package / "fit.py", '"""Training is', '"""Documented otherwise. Training is')
    edit(
        package / "config.py",
        "    seed: int = Field(0, ge=0)\n",
        "    seed: int = Field(0, ge=0)\n    new: int = 1\n",
    )
    edit(package / "errors.py", '"""An invalid field', '"""One invalid field')
    assert code(package) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("equations.py", "(1 - omega)", "(1 + omega)"),
        ("fit.py", "torch.optim.Adam(", "torch.optim.AdamW("),
        ("nets/extractor.py", "PROJECTED = 256", "PROJECTED = 128"),
        ("backbones/tiny.py", "CHANNELS = ", "CHANNELS = 2 * "),
        ("nets/generator.py", "nn.Conv2d(", "nn.Conv2d (1 +"),
        ("objective.py", '"l_ne"', '"l_other"'),
    ],
)
def test_what_decides_a_number_renames_units(package: Path, file: str, old: str, new: str) -> None:
    before = code(package)
    edit(package / file, old, new)
    assert code(package) != before


def test_the_closure_follows_imports_within_functions_and_no_types_alone(package: Path) -> None:
    (package / "methods" / "late.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from cgn.figures import save\n"
        "def build(config):\n    from cgn import measure\n    return measure\n"
    )
    closure = import_closure(["cgn.methods.late"], package)
    assert {"cgn", "cgn.methods", "cgn.methods.late", "cgn.measure", "cgn.metrics"} <= closure
    assert "cgn.figures" not in closure


def test_layout_is_no_code_and_an_f_string_is_one_token() -> None:
    plain = "def f(a, b):\n    return f\"{a!r:>{b}} {'x'}\" + 'y'\n"
    wrapped = "# c\ndef f(\n    a, b\n):  # d\n    '''doc'''\n\n    return f\"{a!r:>{b}} {'x'}\" + 'y'\n"
    assert essence(plain) == essence(wrapped)
    assert essence(plain).splitlines()[1] == "> return f\"{a!r:>{b}} {'x'}\" + 'y'"
    assert essence("x = 'a'\n") != essence("x = 'b'\n")
    assert essence("if a:\n    b\nc\n") != essence("if a:\n    b\n    c\n")


def test_a_method_declares_what_it_reads(package: Path) -> None:
    assert fields_read("cgn") == set(Config.model_fields)
    (package / "methods" / "toy.py").write_text('READS: tuple[str, ...] = ("precision",)\n')
    assert fields_read("toy", package) == {*TRAINING_FIELDS, "precision"}
    (package / "methods" / "mute.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="mute must define READS"):
        fields_read("mute", package)
    with pytest.raises(ConfigError, match="no module 'none'"):
        fields_read("none", package)
