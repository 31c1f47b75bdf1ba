"""Hashes of code: what decides a result changes them, and nothing else does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from components.storage.code import code_hash, statements_hash
from components.storage.computed import MAKERS
from tests.conftest import ROOT

MODULE = '''"""What it is for."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from components.errors import DataError
from components.ml.losses import loss

if TYPE_CHECKING:
    from components.ml.other import Other

log = logging.getLogger(__name__)


def root(number: float, kind: str = "square") -> float:
    """Return the root of a number.

    Raises:
        DataError: it is negative.
    """
    if number < 0:
        raise DataError(f"{number} is negative; expected a positive number")
    log.info("the %s root of %s", kind, number)
    text = f"{number:.3f}{kind}"
    return math.sqrt(number) + len(text)  # as everybody does


class Point:
    """A point."""

    x: int = 0
'''


def test_the_form_is_equal_on_every_python() -> None:
    """Measured on 3.11.7, 3.12.1 and 3.13.0: whoever changes the form changes the keys of all results."""
    assert statements_hash(MODULE)[:16] == "4c3ddd7e3f4f4e84"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""What it is for."""', '"""What it is."""\n"""And more."""'),
        ("  # as everybody does", ""),
        ('log.info("the %s root of %s", kind, number)', 'log.warning("a root")'),
        ("is negative; expected a positive number", "is below 0"),
        ("number: float, kind: str", "number: int, kind"),
        ("-> float", "-> int"),
        ("import logging\nimport math\n", "import math\n\nimport logging\n"),
        ("import Other", "import Another"),
        ('    """A point."""\n', ""),
        ("= math.sqrt", "=   math.sqrt"),
    ],
)
def test_what_decides_nothing_is_left_out(old: str, new: str) -> None:
    assert statements_hash(MODULE.replace(old, new)) == statements_hash(MODULE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("number < 0", "number <= 0"),
        ("math.sqrt(number)", "math.sqrt(number) + 0"),
        ("raise DataError", "raise ValueError"),
        ('"square"', '"cube"'),
        (":.3f", ":.4f"),
        ("x: int", "x: float"),
        ("x: int", "y: int"),
        ("def root", "def roots"),
    ],
)
def test_what_decides_something_counts(old: str, new: str) -> None:
    assert old in MODULE
    assert statements_hash(MODULE.replace(old, new)) != statements_hash(MODULE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the code, to be edited."""
    shutil.copytree(
        ROOT / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


Edit = Callable[[str], str]


def edited(text: str, new: str) -> Edit:
    def edit(source: str) -> str:
        assert text in source
        return source.replace(text, new, 1)

    return edit


def hashes(root: Path) -> dict[str, str]:
    return {
        f"{stage}/{result}": code_hash(modules, root)
        for stage, makers in MAKERS.items()
        for result, modules in makers.items()
    }


TRAINED_BY_CONTRAST = {"base_models/clip", "base_models/captioner", "tune_llm/llm", "train_clip/arms"}


@pytest.mark.parametrize(
    ("path", "edit", "expected"),
    [
        ("ml/losses/contrastive.py", edited("return", "return 2 *"), TRAINED_BY_CONTRAST),
        ("ml/text/mntp.py", edited("return", "return 2 *"), {"tune_llm/llm"}),
        ("ml/adapter.py", edited("return", "return 2 *"), {"train_clip/arms"}),
        (
            "recaption/filters/gates.py",
            edited("MIN_REPEATS = 3", "MIN_REPEATS = 4"),
            set(),
        ),  # no result is kept
        (
            "audit/near_duplicates/fingerprints.py",
            edited("return", "return 2 *"),
            {"audit/fingerprints", "audit/similar_images"},
        ),
        ("running/training.py", edited("HISTORY_STEPS = 10", "HISTORY_STEPS = 20"), set()),
        ("settings/train_clip.py", lambda source: f"{source}\nX = 1\n", set()),
        ("ml/losses/contrastive.py", lambda source: f'"""Other words."""\n{source}', set()),
    ],
)
def test_an_edit_changes_the_keys_of_what_it_makes_and_no_other(
    project: Path, path: str, edit: Edit, expected: set[str]
) -> None:
    before = hashes(ROOT)
    file = project / "components" / path
    file.write_text(edit(file.read_text("utf-8")), "utf-8")
    after = hashes(project)
    assert {name for name in before if before[name] != after[name]} == expected


def test_pooling_decides_tuning_and_embeddings(project: Path) -> None:
    before, file = hashes(ROOT), project / "components" / "ml" / "text" / "encoder.py"
    file.write_text(edited("return", "return 2 *")(file.read_text("utf-8")), "utf-8")
    after = hashes(project)
    changed = {name for name in before if before[name] != after[name]}
    assert {"tune_llm/llm", "embed_captions/llm"} <= changed
    assert not {name for name in changed if name.startswith(("download", "audit", "train_clip"))}


def test_a_moved_module_changes_nothing(project: Path) -> None:
    before = hashes(ROOT)
    old, new = "components.ml.losses.contrastive", "components.ml.pairs"
    (project / f"{old.replace('.', '/')}.py").rename(project / f"{new.replace('.', '/')}.py")
    for path in (project / "components").rglob("*.py"):
        path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    assert hashes(project) == before


def test_modules_that_import_each_other_end(tmp_path: Path) -> None:
    folder = tmp_path / "components" / "ml"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("from components.ml.b import y\n\nx = 1\n")
    (folder / "b.py").write_text("def y():\n    from components.ml.a import x\n    return x\n")
    first = code_hash(["components.ml.a"], tmp_path)
    (folder / "c.py").write_text("from components.ml.b import y\n\nx = 2\n")
    assert len(first) == 64
    assert code_hash(["components.ml.c"], tmp_path) != first
