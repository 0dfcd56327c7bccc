"""The way back from a pseudonym, with the key and without."""

import hashlib
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cgn.data.identity.pseudonym import Pseudonyms, open_pseudonyms
from cgn.data.identity.reidentify import find_files
from cgn.errors import NotADatasetError

dicoms = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "dicoms.py")))

KEY = b"k" * 32


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw" / "Mass_P_00173_LEFT"
    folder.mkdir(parents=True)
    (folder / "20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm").write_bytes(b"film")
    (tmp_path / "raw" / "cases.csv").write_text('who;file\n"Mary Smith";a.dcm\n')
    return tmp_path / "raw"


@pytest.mark.parametrize(
    ("kind", "value", "end"),
    [
        ("film", hashlib.sha256(b"film").hexdigest(), "_ANON.dcm"),
        ("patient", "6c613a14b80a8591", "_ANON.dcm"),
        ("patient", "P_00173", "_ANON.dcm"),
        ("pair", "20586908", "_ANON.dcm"),
        ("patient", "Mary Smith", "cases.csv:2"),
        ("patient", "woman", "tagged.dcm"),
        ("study", "1.2.3", "tagged.dcm"),
    ],
)
def test_the_holder_of_the_key_finds_the_file(raw, kind, value, end):
    dicoms.write(raw / "tagged.dcm", dicoms.breast())
    pseudonyms = Pseudonyms(KEY)
    name = pseudonyms.of(kind, value)
    ((path,),) = find_files([name], raw, pseudonyms).values()
    assert path.endswith(end)
    assert find_files([name], raw, Pseudonyms(b"l" * 32)) == {name: []}


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(NotADatasetError, match="no folder"):
        find_files(["film-0"], tmp_path / "none", Pseudonyms(KEY))


def test_the_command_prints_files_and_names_unknown_pseudonyms(raw, tmp_path):
    key = tmp_path / "key"
    pseudonyms = open_pseudonyms(key)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cgn_platform.cli",
            "whose",
            pseudonyms.of("pair", "20586908"),
            "film-0",
            "--raw",
            raw,
        ],
        env={**os.environ, "CGN_KEY_FILE": str(key)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith(f"{pseudonyms.of('pair', '20586908')}: {raw}")
    assert "film-0" in done.stderr
