"""The code a stage depends on: its folder, the shared packages it imports, the settings files it reads.

`python -m tests.code_deps` writes them into dvc.yaml.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from textwrap import wrap
from typing import Any

from ruamel.yaml import YAML

from components.storage.layout import STAGES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "components"
WIDTH = 104
# what decides no result: params as a whole (its sections' files are watched), where work happens, estimates
WITHOUT = (
    "components/errors.py",
    "components/planning/",
    "components/settings/environment.py",
    "components/settings/params.py",
)


def code_deps(stage: str, sections: set[str]) -> list[str]:
    """Return the folders and settings files of a stage, relative to the project, its own first.

    Args:
        stage: Its folder's name.
        sections: Of params that it declares; the other stages' defaults cannot change what it does.
    """
    seen: set[Path] = set()
    queue = sorted((PACKAGE / stage).rglob("*.py"))
    while queue:
        path = queue.pop()
        if path in seen or not path.is_file() or path.relative_to(ROOT).as_posix().startswith(WITHOUT):
            continue
        seen.add(path)
        queue.extend(_imported(path))
    within = {path.relative_to(PACKAGE) for path in seen}
    settings = {path.stem for path in within if path.parts[0] == "settings"} - {"__init__"}
    settings = (settings - set(STAGES)) | (sections & set(STAGES))
    packages = {path.parts[0] for path in within if len(path.parts) > 1} - {"settings"}
    files = [f"settings/{name}.py" for name in sorted(settings, key=lambda name: (name != stage, name))]
    return [f"components/{path}" for path in (stage, *files, *sorted(packages - {stage}))]


def _imported(path: Path) -> list[Path]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    ours = [module.replace(".", "/") for module in modules if module.startswith("components.")]
    return [ROOT / f"{name}{end}" for name in ours for end in (".py", "/__init__.py")]


def deps_block(deps: list[str]) -> str:
    """Return the deps of a stage as dvc.yaml has them: artifacts, its own code and settings, shared code."""
    deps = [f'"{dep}"' if "{" in dep else dep for dep in deps]
    own = [dep for dep in deps if dep.startswith("components/settings/")]
    code = [dep for dep in deps if dep.startswith("components/") and dep not in own]
    groups = [[dep for dep in deps if not dep.startswith("components/")], [*code[:1], *own], code[1:]]
    lines = [line for group in groups for line in wrap(", ".join(group) + ",", WIDTH)]
    return "\n".join(["    deps: [", *(f"      {line}" for line in lines), "    ]"])


def sections_of(stage: dict[str, Any]) -> set[str]:
    """Return the sections of params that a stage of dvc.yaml declares."""
    return {param.partition(".")[0] for param in stage["params"]}


def main() -> None:
    """Write the code deps of every stage into dvc.yaml."""
    path = ROOT / "dvc.yaml"
    text = path.read_text("utf-8")
    for name, stage in YAML(typ="safe").load(text)["stages"].items():
        others = [dep for dep in stage["deps"] if not dep.startswith("components/")]
        block = deps_block([*others, *code_deps(name, sections_of(stage))])
        text = re.sub(
            rf"(^  {name}:.*?)^    deps:.*?(?=^    params:)",
            lambda found, block=block: f"{found[1]}{block}\n",  # type: ignore[misc]
            text,
            count=1,
            flags=re.DOTALL | re.MULTILINE,
        )
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
