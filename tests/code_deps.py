"""The code files a stage depends on: its own and those it imports.

`python -m tests.code_deps` writes them into dvc.yaml.
"""

from __future__ import annotations

import ast
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
# params as a whole and the environment decide no result; a stage's own settings do, by their defaults
WITHOUT = ("components/settings/params.py", "components/settings/environment.py", "components/errors.py")
PLAN = "plan.py"  # says what a stage would take; no run reads it


def code_deps(stage: str) -> list[str]:
    """Return the code files of a stage, relative to the project, sorted."""
    found: set[Path] = set()
    queue = sorted((ROOT / "components" / stage).rglob("*"))
    while queue:
        path = queue.pop()
        if path in found or not path.is_file() or "__pycache__" in path.parts or path.name == PLAN:
            continue
        found.add(path)
        if path.suffix == ".py" and not path.relative_to(ROOT).as_posix().startswith(WITHOUT):
            queue.extend(_imported(path))
    names = sorted(path.relative_to(ROOT).as_posix() for path in found)
    return [name for name in names if not name.startswith(WITHOUT)]


def _imported(path: Path) -> list[Path]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    ours = [module.replace(".", "/") for module in modules if module.startswith("components.")]
    return [ROOT / f"{name}{end}" for name in ours for end in (".py", "/__init__.py")]


def main() -> None:
    """Write the code deps of every stage into dvc.yaml."""
    yaml = YAML()
    yaml.width = 110
    yaml.indent(mapping=2, sequence=4, offset=2)
    path = ROOT / "dvc.yaml"
    tree = yaml.load(path.read_text("utf-8"))
    for name, stage in tree["stages"].items():
        kept = [dep for dep in stage["deps"] if not dep.startswith("components/")]
        del stage["deps"][:]
        stage["deps"].extend([*kept, *code_deps(name)])
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)


if __name__ == "__main__":
    main()
