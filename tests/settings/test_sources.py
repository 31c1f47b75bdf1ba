from __future__ import annotations

import re
import textwrap

from pydantic import TypeAdapter
from ruamel.yaml import YAML

from components.settings.sources import Source
from tests.conftest import ROOT


def test_the_sources_that_the_readme_shows_are_whole() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "sources:" in block]
    kinds = []
    for block in blocks:
        tree = YAML(typ="safe").load(textwrap.dedent(block))
        kinds += [source.kind for source in TypeAdapter(list[Source]).validate_python(tree["sources"])]
    assert kinds == ["url_list", "url_list", "coco", "karpathy", "sidecars", "shards"]
