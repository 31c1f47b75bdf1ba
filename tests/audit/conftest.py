"""A download and a recaption to audit, made of real scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from components.audit.caption_figures import CaptionTable, write_figures
from components.audit.captions import Captions
from components.audit.host_stats import LEDGER
from components.audit.images import SIZES, SPLITS, AuditImages
from components.running.output import output
from components.sources.scenes.scene import draw_scenes, render, scene_captions
from components.storage.layout import Layout
from components.storage.scores import EMBEDDED_IMAGES, SCORES, write_image_embeddings
from components.storage.shards import Pair
from components.storage.side_tables import Caption, write_captions, write_table
from tests.pairs import write_pairs

COUNTS = {"train": 24, "validation": 10, "test": 10}
SHARD_ROWS = 16
TEXTS = 6


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def images_of(keys: list[str], splits: list[str], shard_rows: int = SHARD_ROWS) -> AuditImages:
    """Return images of no bytes, in shards of so many rows."""
    starts = range(0, len(keys), shard_rows)
    return AuditImages(
        pa.chunked_array([pa.array(keys[start : start + shard_rows]) for start in starts], pa.string()),
        np.array([SPLITS.index(split) for split in splits], np.uint8),
        pa.table({name: pa.array([64] * len(keys)) for name in SIZES}),
        [f"{number:05d}" for number in range(len(starts))],
    )


def captions_of(folder: Path, rows: list[Caption], images: AuditImages, samples: int = 5) -> Captions:
    """Return the figures of captions of rows without images."""
    write_captions(folder / "captions.parquet", rows)
    (folder / "figures").mkdir()
    write_figures(folder / "captions.parquet", folder / "figures")
    tables = [CaptionTable(folder / "captions.parquet", folder / "figures", None)]
    return Captions(tables, images, samples, folder / "digests")


def ledger_of(keys: list[str], failed: int = 0, host: str = "images.example") -> pa.Table:
    """Return a ledger of images that came and of some that did not."""
    lines = [{"key": key, "url": f"https://{host}/{key}.jpg", "status": "success"} for key in keys]
    lines += [
        {
            "key": f"lost{number}",
            "url": f"https://user:secret@{host}/{number}.jpg?token=1",
            "status": "failed_to_download",
            "error_message": "http_404: row 7",
        }
        for number in range(failed)
    ]
    return pa.Table.from_pylist(lines, LEDGER)


def write_scores(folder: Path, shard: str, pairs: list[Pair], values: list[float | None]) -> None:
    """Write scores of the alt texts, and embeddings that are the pictures' averages in 8 x 8 places."""
    lines = [
        {"key": pair.key, "column": "alt", "number": 0, "similarity": value, "is_cut": False}
        for pair, value in zip(pairs, values, strict=True)
    ]
    write_table(folder / "scores" / f"{shard}.parquet", pa.Table.from_pylist(lines, SCORES))
    rows = [{"key": pair.key, "split": pair.metadata["split"], "row": row} for row, pair in enumerate(pairs)]
    pictures = [Image.open(BytesIO(pair.jpeg)).resize((8, 8), Image.Resampling.BOX) for pair in pairs]
    flat = torch.stack([torch.tensor(np.asarray(picture)).flatten().float() for picture in pictures])
    vectors = torch.nn.functional.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)
    table = pa.Table.from_pylist(rows, EMBEDDED_IMAGES)
    write_image_embeddings(folder / "image_embeddings", shard, {"clip": "averages"}, table, vectors)


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
            given = [
                {name: getattr(one, name) for name in ("column", "language", "number", "text", "writer")}
                for one in captions
                if one.column == "alt"
            ]
            metadata = {"split": split, "source": "scenes", "width": 64, "height": 64, "captions": given}
            yield Pair(key, jpeg(render(scene, 64)), captions[0].text, metadata), captions


@pytest.fixture
def make_data(workspace: Path) -> Callable[..., Layout]:
    """Write `artifacts/download` and `artifacts/recaption` of these pairs, `failed` images and some texts.

    `similarity` gives the score of a pair's alt text by the pair's number; without it nothing is scored.
    """

    def make(
        pairs: list[tuple[Pair, list[Caption]]],
        failed: int = 0,
        similarity: Callable[[int], float | None] | None = None,
    ) -> Layout:
        layout = Layout(Path(".work"))
        parts = [pairs[start : start + SHARD_ROWS] for start in range(0, len(pairs), SHARD_ROWS)]
        with output(layout, "download") as out:
            for number, part in enumerate(parts):
                name = f"{number:05d}"
                tar = f"shards/{name}.tar"
                out.rows[tar] = write_pairs(out.folder / tar, [pair for pair, _ in part])
                ledger = ledger_of([pair.key for pair, _ in part], failed if number == 0 else 0)
                write_table(out.folder / f"rows/{name}.parquet", ledger)
            texts = [Caption(f"text_{n}", "train", "short", "en", 0, f"text {n}", "t") for n in range(TEXTS)]
            write_captions(out.folder / "texts/00000.parquet", texts)
        with output(layout, "recaption") as out:
            for number, part in enumerate(parts):
                captions = [caption for _, captions in part for caption in captions]
                write_captions(out.folder / f"captions/{number:05d}.parquet", captions)
                if similarity:
                    values = [similarity(number * SHARD_ROWS + place) for place in range(len(part))]
                    write_scores(out.folder, f"{number:05d}", [pair for pair, _ in part], values)
        return layout

    return make
