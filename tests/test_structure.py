"""Rules of the code that no linter checks."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [p for folder in ("cgn", "platform", "search_spaces") for p in (ROOT / folder).rglob("*.py")]


def test_no_package_at_the_top_hides_a_module_of_the_standard_library():
    """Ray puts a submitted folder first on the path: `import platform` must not find ours."""
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")} | {p.stem for p in ROOT.glob("*.py")}
    assert not packages & sys.stdlib_module_names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_is_read_from_storage(path):
    text = path.read_text()
    assert not re.search(r"\bpickle\.loads?\(|allow_pickle=True|weights_only=False", text)
    for call in re.findall(r"torch\.load\([^)]*\)", text):
        assert "weights_only=True" in call


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_switches_are_read_by_the_tables_that_own_them(path):
    """Invariant 5: nobody else branches on an ablation."""
    owners = {"ablation.py", "config.py", "objective.py", "cgn.py"}
    if path.name in owners or path.parent.name == "search_spaces":
        return
    switches = {"bilateral", "triplet", "variant", "negative_embedding", "generator_level"}
    read = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
    assert not read & switches


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_temporary_folders_are_made_where_the_next_start_finds_them(path):
    """What a killed process leaves is removed by its name, which `cgn.temporary` gives."""
    if path == ROOT / "cgn" / "temporary.py":
        return
    assert not re.search(r"TemporaryDirectory|mkdtemp|NamedTemporaryFile|SpooledTemp", path.read_text())


def test_nothing_names_this_machine():
    """No path of a machine, no address of a package index."""
    texts = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/*/README.md"), *(ROOT / "tests").rglob("*.py")]
    for path in [*ROOT.glob("*.*"), *SOURCES, *texts]:
        if path.is_file() and path.name != ".git" and path != Path(__file__):
            text = path.read_text()
            assert not re.search(r"/work/|/home/\w|/root\b|pypi\.org|--index-url|\.library", text), path


@pytest.mark.parametrize("package", ["ray", "optuna", "mlflow", "psycopg"])
def test_a_module_that_is_added_is_guarded(tmp_path, package):
    """A contract that lists modules would not hold for a module that is added later."""
    for name in ("cgn", "platform/cgn_platform"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "platform/cgn_platform/added.py").write_text(f"import {package}\n")
    lint = Path(sys.executable).with_name("lint-imports")
    path = os.pathsep.join(map(str, (tmp_path, tmp_path / "platform")))
    done = subprocess.run(
        [lint, "--no-cache"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert f"cgn_platform.added -> {package}" in done.stdout


def test_no_import_circle_of_any_kind():
    """Imports within functions and for type checkers alone count as well."""
    graph = grimp.build_graph("cgn", "cgn_platform", include_external_packages=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert [sorted(part) for part in strongly_connected(imports) if len(part) > 1] == []


def strongly_connected(imports):
    """Sets of modules that import each other, directly or not (reachability, twice)."""

    def reach(start):
        seen, pending = set(), [start]
        while pending:
            for module in imports[pending.pop()] - seen:
                seen.add(module)
                pending.append(module)
        return seen

    reached = {module: reach(module) for module in imports}
    return {
        frozenset({module, *(other for other in reached[module] if module in reached[other])})
        for module in imports
    }


def test_packages_that_are_installed_are_those_of_the_tree():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {"cgn_platform.dashboards"}
    for top in (ROOT / "cgn", ROOT / "platform" / "cgn_platform"):
        found |= {".".join(p.parent.relative_to(top.parent).parts) for p in top.rglob("__init__.py")}
    assert sorted(declared) == sorted(found)


CODE = [p for folder in ("cgn", "platform") for p in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_read_in_one_sitting(path):
    """At most 450 lines a module, 60 a function, seven parameters but for commands."""
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            command = any(".command" in ast.unparse(decorator) for decorator in node.decorator_list)
            own = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
            assert command or len(own) <= 7, node.name


def test_the_map_names_every_module():
    """docs/ARCHITECTURE.md: paths of the platform are relative to its package."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE))
    platform = ROOT / "platform" / "cgn_platform"
    modules = {str(p.relative_to(platform)) for p in platform.rglob("*.py")}
    modules |= {str(p.relative_to(ROOT)) for p in (ROOT / "cgn").rglob("*.py")}
    assert named == {module for module in modules if Path(module).stem not in ("__init__", "__main__")}
