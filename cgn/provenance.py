"""Which code and which settings a result came from, also in a copy without version control.

Two hashes answer two questions. `code_fingerprint` covers every source file of a package: do driver and
workers run the same code? `training_code` covers only what decides the numbers of a fold: may a finished fold
be reused?
"""

import ast
import hashlib
import io
import subprocess
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from cgn import options
from cgn.errors import ConfigError

ROOT = Path(__file__).parent

TRAINING_FIELDS = (
    *("method", "backbone", "backbone_weights", "frozen_backbone"),
    *("learning_rate", "batch_size", "epochs", "seed"),
)
"""Fields of `Config` that `cgn.fit` reads for every method; a method's own fields are its `READS`."""

NEUTRAL = ("cgn.config", "cgn.errors", "cgn.options", "cgn.plugins")
"""Imported by the training code without deciding a number: an identity holds the configuration's values, the
other two raise errors and find modules by name."""


@cache
def code_fingerprint(root: Path = ROOT) -> str:
    """Sixteen hexadecimal digits over every source file of a package (default: `cgn`)."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


@cache
def training_code(method: str, backbone: str, root: Path = ROOT) -> str:
    """Sixteen hexadecimal digits over the code that decides a fold's numbers.

    The code is `cgn.fit`, the method's module, the backbone's module, and the modules of `cgn` that these
    import, without `NEUTRAL`, comments, docstrings and layout.

    Raises:
        ConfigError: no such method or backbone.
    """
    start = ("cgn.fit", f"cgn.methods.{method}", f"cgn.backbones.{backbone}")
    digest = hashlib.sha256()
    for name in sorted(import_closure(start, root)):
        if name not in NEUTRAL:
            digest.update(f"{name}\0{essence(_source(name, root).read_text())}\0".encode())
    return digest.hexdigest()[:16]


@cache
def fields_read(method: str, root: Path = ROOT) -> frozenset[str]:
    """Fields of `Config` that can change the results of a method: `TRAINING_FIELDS` and its `READS`.

    `READS` is taken from the module's source, so that torch is not imported.

    Raises:
        ConfigError: no such method, or a module without a literal `READS`.
    """
    path = _source(f"cgn.methods.{method}", root)
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "READS" for target in targets):
            return frozenset((*TRAINING_FIELDS, *ast.literal_eval(node.value)))  # type: ignore[attr-defined]
    raise ConfigError(
        f"method {method} must define READS, the fields of Config that it reads: add it to {path.name}"
    )


def reads(method: str, name: str) -> bool:
    """Whether a method reads a field of `Config`, or an option by its dotted name. Raises ConfigError."""
    if name.startswith(options.PREFIX):
        return name.removeprefix(options.PREFIX) in options.declared(method).model_fields
    return name in fields_read(method)


def import_closure(modules: Iterable[str], root: Path = ROOT) -> set[str]:
    """These modules and all modules of `cgn` that they import, directly or not; packages included."""
    closure: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name not in closure:
            closure.add(name)
            pending += _imports(ast.parse(_source(name, root).read_text()), root)
            pending += [parent] if (parent := name.rpartition(".")[0]) else []
    return closure


def essence(source: str) -> str:
    """Source code without comments, docstrings and layout: one line for each statement.

    Tokens are separated by blanks. An f-string is one token in every version of Python.
    """
    statements: list[str] = []
    tokens: list[tuple[int, str]] = []
    for kind, text in _tokens(source):
        if kind == tokenize.NEWLINE:
            if any(kind not in (tokenize.STRING, tokenize.INDENT, tokenize.DEDENT) for kind, _ in tokens):
                statements.append(" ".join(text for _, text in tokens))
                tokens = []
            else:  # a docstring; its indentation belongs to the next statement
                tokens = [token for token in tokens if token[0] != tokenize.STRING]
        else:
            tokens.append((kind, text))
    return "\n".join(statements)


def code_version() -> str:
    """The git commit of `cgn`, with "-dirty" if files differ from it; "unknown" in an uploaded copy."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", ROOT, *command], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--", ".") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _source(name: str, root: Path) -> Path:
    """The file of a module of `cgn`."""
    place = root.joinpath(*name.split(".")[1:])
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    package, _, module = name.rpartition(".")
    raise ConfigError(f"no module {module!r} in {package}: 'cgn' was installed without it, or it was removed")


def _imports(tree: ast.AST, root: Path) -> Iterator[str]:
    """Modules of `cgn` that a module imports at run time, also within functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "cgn")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cgn":
            for alias in node.names:
                place = root.joinpath(*f"{node.module}.{alias.name}".split(".")[1:])
                is_module = place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
                yield f"{node.module}.{alias.name}" if is_module else str(node.module)
        else:
            yield from _imports(node, root)


def _tokens(source: str) -> Iterator[tuple[int, str]]:
    """Kind and text of each token; indentation is a token of its own, comments and line breaks are none."""
    lines = source.splitlines(keepends=True)
    depth, begin = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name == "FSTRING_START":  # Python 3.12 and later split f-strings
            begin = token.start if depth == 0 else begin
            depth += 1
        elif name == "FSTRING_END":
            depth -= 1
            if depth == 0:
                yield tokenize.STRING, _between(lines, begin, token.end)
        elif depth == 0 and token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER):
            marks = {tokenize.INDENT: ">", tokenize.DEDENT: "<"}
            yield token.type, marks.get(token.type, token.string)


def _between(lines: list[str], begin: tuple[int, int], end: tuple[int, int]) -> str:
    """The text from one position (line from 1, column from 0) to another."""
    if begin[0] == end[0]:
        return lines[begin[0] - 1][begin[1] : end[1]]
    inner = lines[begin[0] : end[0] - 1]
    return "".join([lines[begin[0] - 1][begin[1] :], *inner, lines[end[0] - 1][: end[1]]])
