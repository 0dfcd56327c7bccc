import re

from cgn.provenance import code_fingerprint, code_version


def test_equal_code_has_one_name_and_another_line_another(tmp_path, monkeypatch):
    from cgn import provenance

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    prints = []
    for text in ("x = 1\n", "x = 1\n", "x = 2\n"):
        (tmp_path / "sub" / "a.py").write_text(text)
        code_fingerprint.cache_clear()
        prints.append(code_fingerprint())
    code_fingerprint.cache_clear()
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 16


def test_code_without_a_repository_is_unknown(monkeypatch, tmp_path):
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", code_version())
    monkeypatch.setattr("cgn.provenance.__file__", str(tmp_path / "provenance.py"))
    assert code_version() == "unknown"
