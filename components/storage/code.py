"""Hash the code that computes a result, without comments, docstrings and messages.

The hash is part of the key of a computed result, so changed code computes the result again. The hash leaves
out everything that cannot change a result: docstrings and comments, the location of a module, the order of
its imports, annotations of functions, log lines, messages of raised errors, and everything imported from
packages other than `FOLLOWED` and the stage's own.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLLOWED = {("components", "ml"), ("components", "sources")}
NOT_FOLLOWED = {("components", folder) for folder in ("settings", "storage", "running")}
LOGGERS = ("log", "logger", "logging")
# syntax fields without effect on what a program does; `kind` is the u of u"text"
SKIPPED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores", "returns", "annotation"}
BLOCKS = {"body", "orelse", "finalbody"}


def code_hash(modules: Sequence[str], root: Path = ROOT) -> str:
    """Return one hash of modules and of what they import from `FOLLOWED` and from their own packages.

    The hash is equal on all Python versions that the project supports, unlike a hash of `ast.dump`.

    Args:
        modules: Module names, e.g. `components.train_clip.training`; their order does not matter.
        root: The folder that holds `components`.
    """
    queue = [(_path_of(root, name), tuple(name.split(".")[:2])) for name in sorted(set(modules))]
    hashes: dict[Path, str] = {}
    while queue:
        path, package = queue.pop()
        if path in hashes:
            continue
        folders = {*FOLLOWED, package} - NOT_FOLLOWED
        imported = []
        for node in _imports(path):
            for alias in node.names:
                target, names = _target(root, node, alias), f"{alias.name.rpartition('.')[2]} {alias.asname}"
                if isinstance(target, str):
                    imported.append(f"{target} {names}")
                elif target.relative_to(root).parts[:2] in folders:
                    imported.append(f"{_statements_hash(target)} {names}")
                    queue.append((target, package))
                else:
                    imported.append(names)
        hashes[path] = _sha256([_statements_hash(path), *sorted(set(imported))])
    return _sha256(sorted(hashes.values()))


def statements_hash(source: str) -> str:
    """Return the hash of one module's source, without its imports."""
    return _sha256(_parts_of(ast.parse(source)))


def effect_hash(path: Path) -> str:
    """Return the hash of one module with its imports, and without what has no effect."""
    tree = ast.parse(path.read_text("utf-8"))
    imports = [
        f"{getattr(node, 'module', None)} {alias.name} {alias.asname}"
        for node in _imports_in(tree)
        for alias in node.names
    ]
    return _sha256([*sorted(imports), *_parts_of(tree)])


@cache
def _statements_hash(path: Path) -> str:
    return statements_hash(path.read_text("utf-8"))


@cache
def _imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Return the imports of a module, also inside functions, but not under TYPE_CHECKING."""
    return list(_imports_in(ast.parse(path.read_text("utf-8"))))


def _imports_in(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            if getattr(child, "module", None) != "__future__":
                yield child
        elif isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)) and not _is_for_types(child):
            yield from _imports_in(child)


def _target(root: Path, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> Path | str:
    """Return the project file that holds the imported name, or the name of an external module."""
    module = alias.name if isinstance(node, ast.Import) else node.module or ""
    if not module.startswith("components"):
        return module
    paths = [_path_of(root, name) for name in (f"{module}.{alias.name}", module)]
    return next((path for path in paths if path.is_file()), paths[-1])


def _parts_of(module: ast.Module) -> list[str]:
    """Return what a module does, without its imports, as a list of texts."""
    parts: list[str] = []
    _add_block(module.body, parts)
    return parts


def _add_block(statements: Iterable[ast.stmt], parts: list[str]) -> None:
    for statement in statements:
        if not _has_no_effect(statement):
            _add(statement, parts)


def _add(node: object, parts: list[str]) -> None:
    """Add a syntax tree as parts: names of nodes and fields in brackets, and plain values."""
    if isinstance(node, ast.AST):
        parts.append(f"({type(node).__name__}")
        for name, value in _fields(node):
            parts.append(name)
            if name in BLOCKS and isinstance(value, list):
                _add_block(value, parts)
            else:
                _add(value, parts)
        parts.append(")")
    elif isinstance(node, list):
        parts.append("[")
        for item in node:
            _add(item, parts)
        parts.append("]")
    else:
        parts.append(f"{type(node).__name__} {node!r}")


def _fields(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Yield the fields of a node that have an effect."""
    if isinstance(node, ast.Raise):  # only the type of the error
        yield "exc", node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    elif isinstance(node, ast.JoinedStr):  # Python 3.12 puts empty strings between the values
        yield "values", [value for value in node.values if not _is_empty(value)]
    else:
        for name, value in ast.iter_fields(node):
            is_field_of_class = name == "annotation" and isinstance(node, ast.AnnAssign)
            if (name not in SKIPPED_FIELDS or is_field_of_class) and value is not None and value != []:
                yield name, value


def _has_no_effect(statement: ast.stmt) -> bool:
    """Return whether a statement is an import, a bare string, a log line or a TYPE_CHECKING block."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)) or _is_for_types(statement):
        return True
    if not isinstance(statement, ast.Expr):
        return False
    if isinstance(statement.value, ast.Constant):
        return isinstance(statement.value.value, str)
    called = statement.value.func if isinstance(statement.value, ast.Call) else None
    owner = called.value if isinstance(called, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in LOGGERS


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_empty(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == ""


def _path_of(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _sha256(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
