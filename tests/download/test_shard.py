"""What decides a shard, and what is taken from one that an earlier version made."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.download import shard
from components.download.shard import shard_key
from components.download.stage import run
from components.settings.download import Fetch
from components.settings.environment import Environment
from components.settings.params import Params
from components.sources import table_rows
from components.sources.rows import Image, ImageFile, ImageMember, ImageUrl, Row
from components.sources.values import normal_key, without_hash
from components.storage.side_tables import Caption
from tests.download.server import Server, body
from tests.download.test_stage import hashes, jpeg, pairs, row, url_source, with_sources
from tests.ml.vision.test_pictures import FILES
from tests.sources.reading import read, urls

RENEWED = {
    "grey of 16 bits", "dark grey of 16 bits", "one clear grey of 16 bits", "one clear grey of 4 bits",
    "one clear grey of 2 bits", "one clear colour of 16 bits",
}  # fmt: skip


def key_of(image: Image, params: Params) -> str:
    caption = Caption("a", "train", "alt", "en", 0, "a cat", "source")
    return shard_key("00000", [Row("a", "train", "s", [caption], {}, image)], params.download)


@pytest.mark.parametrize("name", [*FILES, "url"])
def test_only_files_that_are_prepared_in_a_newer_way_are_prepared_again(
    name: str, tmp_path: Path, smoke: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[Image] = [ImageUrl("http://example.org/a.png")]
    if name in FILES:
        (tmp_path / "a.png").write_bytes(FILES[name][0])
        member = ImageMember(tmp_path / "a.png", "a.tar/a.png", 0, len(FILES[name][0]))
        images = [ImageFile(tmp_path / "a.png", "a.png"), member]
    keys = [key_of(image, smoke) for image in images]
    monkeypatch.setattr(shard, "preparation_of", lambda _: [])
    before = [key_of(image, smoke) for image in images]
    for key, earlier in zip(keys, before, strict=True):
        assert (key != earlier) == (name in RENEWED)


def test_a_file_that_is_not_there_has_the_key_it_had(tmp_path: Path, smoke: Params) -> None:
    absent = ImageFile(tmp_path / "none.png", "none.png")
    (tmp_path / "none.png").write_bytes(b"")
    there = key_of(absent, smoke)
    (tmp_path / "none.png").unlink()
    assert key_of(absent, smoke) != there


def test_the_identity_of_a_row_of_a_url_list_is_what_it_was(tmp_path: Path) -> None:
    """Any change to it has every image fetched again."""
    (tmp_path / "list.csv").write_text("id,url,caption\n7,http://a/7,a [red] cat\n8,,a dog\n")
    good, bad = (shard._identity(one, 0) for one in read(urls("list.csv", key_column="id"), tmp_path))
    image = {"url": "http://a/7", "sha256": None}
    assert good == ["7", "train", "told", [["alt", "en", 0, "a [red] cat"]], {}, image]
    assert bad == {
        "key": "8", "split": "train", "source": "told", "reason": "no_url", "where": "list.csv line 3",
        "url": "",
    }  # fmt: skip


def test_what_was_fetched_when_keys_had_no_hash_is_not_fetched_again(
    workspace: Path,
    smoke: Params,
    env: Environment,
    server: Server,
    fetch: Fetch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.answers |= {f"/{number}": body(jpeg(number)) for number in range(12)}
    rows = [{**row(server, f"/{number}"), "id": f"Row {number}"} for number in range(12)]
    rows[3]["words"] = ""
    params = with_sources(smoke, [url_source(rows)], fetch, max_reject_share=0.5)
    with monkeypatch.context() as before:
        before.setattr(table_rows, "normal_key", lambda value: without_hash(normal_key(value)))
        run(params, env)
    assert pairs()[0].key == "row_0"
    jpegs = [pair.jpeg for pair in pairs()]
    run(params, env)
    numbers = [number for number in range(12) if number != 3]
    assert [pair.key for pair in pairs()] == [normal_key(f"Row {number}") for number in numbers]
    assert [pair.jpeg for pair in pairs()] == jpegs
    assert server.hits == {f"/{number}": 1 for number in numbers}
    made = hashes()
    run(params, Environment(work_store=Path(".other")))
    assert hashes() == made  # as if all were fetched anew
