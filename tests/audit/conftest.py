"""A download and a recaption to audit, made of real scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from components.running.output import output
from components.sources.scenes import draw_scenes, render, scene_captions
from components.storage.layout import Layout
from components.storage.shards import Pair, write_shard
from components.storage.side_tables import Caption, write_captions, write_table

COUNTS = {"train": 24, "validation": 10, "test": 10}
SHARD_ROWS = 16
TEXTS = 6


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@pytest.fixture(scope="session")
def scene_pairs() -> list[tuple[Pair, list[Caption]]]:
    """Images of all splits with their captions."""
    return list(_scene_pairs())


def _scene_pairs() -> Iterator[tuple[Pair, list[Caption]]]:
    for split, count in COUNTS.items():
        for scene in draw_scenes("scenes", split, count, 7):
            key = f"scenes_{split}_{scene.number:09d}"
            captions = [
                Caption(key, split, column, "de" if column.endswith("_de") else "en", number, text, "scenes")
                for column, texts in scene_captions(scene).items()
                for number, text in enumerate(texts)
            ]
            metadata = {"split": split, "source": "scenes", "width": 64, "height": 64}
            yield Pair(key, jpeg(render(scene, 64)), captions[0].text, metadata), captions


@pytest.fixture
def make_data(workspace: Path) -> Callable[..., Layout]:
    """Write `artifacts/download` and `artifacts/recaption` of these pairs, `failed` images and some texts."""

    def make(pairs: list[tuple[Pair, list[Caption]]], failed: int = 0) -> Layout:
        layout = Layout(Path(".work"))
        parts = [pairs[start : start + SHARD_ROWS] for start in range(0, len(pairs), SHARD_ROWS)]
        with output(layout, "download") as out:
            for number, part in enumerate(parts):
                name = f"{number:05d}"
                tar = f"shards/{name}.tar"
                out.rows[tar] = write_shard(out.folder / tar, [pair for pair, _ in part])
                statuses = ["success"] * len(part) + ["failed_to_download"] * (failed if number == 0 else 0)
                write_table(out.folder / f"shards/{name}.parquet", pa.table({"status": statuses}))
            texts = [Caption(f"text_{n}", "train", "short", "en", 0, f"text {n}", "t") for n in range(TEXTS)]
            write_captions(out.folder / "texts/00000.parquet", texts)
        with output(layout, "recaption") as out:
            for number, part in enumerate(parts):
                captions = [caption for _, captions in part for caption in captions]
                write_captions(out.folder / f"captions/{number:05d}.parquet", captions)
        return layout

    return make
