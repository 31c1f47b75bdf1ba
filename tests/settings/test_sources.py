from __future__ import annotations

import re
import textwrap

import pytest
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from components.settings.params import Params
from components.settings.sources import Source
from tests.conftest import ROOT
from tests.recaption.test_given_captions import source_of
from tests.sources.test_shard_rows import shards


def test_the_sources_that_the_docs_show_are_whole() -> None:
    text = "".join((ROOT / "docs" / f"{page}.md").read_text("utf-8") for page in ("data", "tuning"))
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "sources:" in block]
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


def test_who_wrote_a_column_is_said_once_and_not_of_captions_without_images(smoke: Params) -> None:
    tree = smoke.model_dump()
    tree["download"]["sources"] = [source_of(by_model=True, kind="dense"), source_of() | {"name": "mine"}]
    with pytest.raises(
        ValidationError,
        match="source mine: by_model and kind of captions long are false and null, and true and dense in "
        "another source; expected the same: correct one, or give it a name of its own",
    ):
        Params.model_validate(tree)
    texts = {name: value for name, value in source_of(by_model=True).items() if "url" not in name}
    del texts["sha256_column"], texts["weight"]
    with pytest.raises(
        ValidationError, match="source dreamlip: by_model and kind of long are for recaption.gates"
    ):
        TypeAdapter(list[Source]).validate_python([texts | {"kind": "text_table"}])
