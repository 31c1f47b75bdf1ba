"""What other programs find: img2dataset's files and columns, read by webdataset as open_clip does."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import webdataset
from PIL import Image

from components.download.stage import run
from components.settings.environment import Environment
from components.settings.params import Params

SHARDS = Path("artifacts/download/shards")
IMG2DATASET_COLUMNS = {  # of 1.47.0, with sha256 asked for
    "url", "caption", "key", "status", "error_message", "width", "height", "original_width",
    "original_height", "exif", "sha256",
}  # fmt: skip
IMAGE_KINDS = ("png", "jpg", "jpeg", "webp")


def test_files_and_columns_are_those_of_img2dataset(workspace: Path, smoke: Params, env: Environment) -> None:
    run(smoke, env)
    names = sorted(path.name for path in SHARDS.iterdir())
    assert names == sorted(
        f"{shard:05d}{end}" for shard in range(4) for end in (".tar", ".parquet", "_stats.json")
    )
    table = pq.read_table(SHARDS / "00000.parquet")
    assert set(table.column_names) >= IMG2DATASET_COLUMNS
    assert set(table.column("status").to_pylist()) == {"success"}
    stats = json.loads((SHARDS / "00000_stats.json").read_text())
    assert stats["count"] == stats["successes"] == table.num_rows == 64


def test_open_clip_s_rules_take_every_sample(workspace: Path, smoke: Params, env: Environment) -> None:
    run(smoke, env)
    pattern = str(SHARDS / "{00000..00003}.tar")
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(pattern),
        webdataset.tarfile_to_samples(handler=webdataset.reraise_exception),
        webdataset.select(lambda sample: "txt" in sample and any(kind in sample for kind in IMAGE_KINDS)),
        webdataset.decode("pilrgb", handler=webdataset.reraise_exception),
        webdataset.rename(image="jpg;png;jpeg;webp", text="txt"),
        webdataset.to_tuple("image", "text", "json"),
    )
    samples = list(pipeline)
    keys = [
        key for path in sorted(SHARDS.glob("*.parquet")) for key in pq.read_table(path)["key"].to_pylist()
    ]
    assert [metadata["key"] for _, _, metadata in samples] == keys
    for image, text, metadata in samples:
        assert isinstance(image, Image.Image)
        assert image.size == (metadata["width"], metadata["height"])
        assert text == metadata["caption"]
