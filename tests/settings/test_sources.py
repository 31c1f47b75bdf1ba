from __future__ import annotations

import re
import textwrap

import pytest
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from components.settings.sources import Source
from tests.conftest import ROOT
from tests.sources.test_shard_rows import shards


def test_the_sources_that_the_readme_shows_are_whole() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "sources:" in block]
    kinds = []
    for block in blocks:
        tree = YAML(typ="safe").load(textwrap.dedent(block))
        kinds += [source.kind for source in TypeAdapter(list[Source]).validate_python(tree["sources"])]
    assert kinds == ["url_list", "url_list", "coco", "karpathy", "sidecars", "shards", "text_table"]


@pytest.mark.parametrize(
    "path",
    [
        "cc12m/*.tar", "a/b.tar", "https://host/0.tar", "http://host:8080/a/b/{00000..00331}.tar",
        "https://host/part-{0..9}-of-10.tar", "s3://bucket/0.tar", "s3://bucket/a/b/{000..331}.tar",
        "s3://bucket/a/b/*.tar", "s3://bucket/a/part-*-of-*.tar",
    ],
)  # fmt: skip
def test_paths_of_shards(path: str) -> None:
    assert shards(path=path).is_far == ("://" in path)


@pytest.mark.parametrize(
    "path",
    [
        "../a.tar", "/a.tar", "https://host/*.tar", "https://host/a.tar?token=1", "https://me:word@host/a.tar",
        "https://host/a/", "https://host/{a,b}.tar", "https://host/{0..99999999}.tar", "https://host/{0..1}/a.tar",
        "s3://bucket", "s3://bucket/prefix", "s3://key:word@bucket/a.tar", "s3://bucket/a/*/b.tar", "ftp://host/a.tar",
        "https://host/a.tar.gz", "s3://bucket/[ab].tar", "https://host/a b.tar", "https://host/a.tar#b",
    ],
)  # fmt: skip
def test_paths_that_are_none_of_shards(path: str) -> None:
    with pytest.raises(ValidationError, match="expected a relative path|expected https://host/folder/"):
        shards(path=path)
