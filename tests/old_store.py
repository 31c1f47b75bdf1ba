"""A work store that an earlier commit left behind, with what it had fetched; see `python -m tests.old_store`.

`tests/old_store.tar.gz` was made by running this file with the code of commit de414e7: nothing listens at the
addresses in it any more.
"""

from __future__ import annotations

import functools
import http.server
import importlib
import io
import random
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from components.settings.environment import Environment
from components.settings.params import Params, load_params
from components.storage.atomic import write_json
from components.storage.manifest import write_manifest

STORE = Path(__file__).with_name("old_store.tar.gz")
STAGES = ("download", "base_models", "recaption", "audit", "embed_captions")
FETCHED = ("download", "recaption", "embed_captions")
PORT = 8579  # of the pictures; in the urls, and so in the keys of their shard
PICTURES = 6
REQUESTS: dict[str, Any] = {
    "deadline_seconds": 20.0,
    "retries": 0,
    "backoff_seconds": 0.001,
    "max_retry_after_seconds": 0.002,
    "connections": 4,
}
WEB: dict[str, Any] = {
    "kind": "url_list",
    "name": "web",
    "path": "web.parquet",
    "sha256": None,
    "columns": None,
    "key_column": "id",
    "url_column": "url",
    "sha256_column": None,
    "split_column": None,
    "split": "train",
    "captions": [{"column": "words", "name": "alt", "language": "en"}],
    "limit": None,
    "weight": None,
}
FAR: dict[str, Any] = {
    "kind": "endpoint",
    "name": "far",
    "prompts": {"short": "describe the image"},
    "max_new_tokens": {"short": 12},
    "temperature": 0.0,
    "language": "en",
    "splits": ["train"],
    "model": "m",
    "revision": "1",
    "requests": {**REQUESTS, "max_failures_in_a_row": 3, "retry_rounds": 0},
}
ENCODER: dict[str, Any] = {
    "kind": "endpoint",
    "name": "far",
    "model": "some/embedder",
    "revision": "1",
    "dimensions": 6,
    "asks_dimensions": False,
    "batch_size": 4,
    "max_characters": 1000,
    "requests": REQUESTS,
}


def old_params(preset: Path) -> Params:
    """Return params of pictures, captions and embeddings that others give, and of a few scenes."""
    tree = load_params(preset).model_dump()
    scenes = {"kind": "scenes", "name": "scenes", "image_size": 64}
    tree["download"]["sources"] = [WEB, {**scenes, "counts": {"train": 0, "validation": 2, "test": 2}}]
    tree["download"]["fetch"] |= {
        "allowed_ports": [PORT],
        "allowed_private_hosts": ["127.0.0.1"],
        "retries": 0,
    }
    tree["recaption"] |= {"captioners": [FAR], "scores": None}
    tree["audit"] |= {"min_rows": 1}
    tree["embed_captions"] |= {"llms": ["base"], "others": [ENCODER]}
    for arm in tree["train_clip"]["arms"]:
        arm["text"] = arm["text"].replace("tuned", "base")
    tree["train_clip"] |= {"caption_mix": {"alt": 1.0}, "false_negative_cosine": None}
    return Params.model_validate(tree)


def write_inputs() -> None:
    """Write the url list below the folder of the process."""
    rows = [
        {"id": f"{n}", "url": f"http://127.0.0.1:{PORT}/{n}.jpg", "words": f"a picture of {n} dogs"}
        for n in range(PICTURES)
    ]
    folder = Path("inputs/demo")
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "web.parquet")


def run_stages(params: Params, env: Environment) -> None:
    """Run the stages whose results are fetched, and those they need; tune_llm leaves its encoding alone."""
    write_json(Path("artifacts/tune_llm/encoding.json"), params.tune_llm.encoding.model_dump())
    write_manifest(Path("artifacts/tune_llm"))
    for stage in STAGES:
        importlib.import_module(f"components.{stage}.stage").run(params, env)


@contextmanager
def _pictures(folder: Path) -> Iterator[None]:
    folder.mkdir()
    for number in range(PICTURES):
        draw = random.Random(number)  # noqa: S311
        small = Image.frombytes("RGB", (4, 3), draw.randbytes(36))
        file = io.BytesIO()
        small.resize((40, 30), Image.Resampling.BICUBIC).save(file, "JPEG")
        (folder / f"{number}.jpg").write_bytes(file.getvalue())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()


def main() -> None:
    """Make the store in the folder of the process, by the code that is imported."""
    from tests.embed_captions.embedding_server import serving as embedding
    from tests.recaption.chat_server import ChatServer
    from tests.recaption.chat_server import serving as captioning

    params = old_params(
        Path(importlib.import_module("components").__path__[0]).parent / "presets" / "smoke.yaml"
    )
    write_inputs()
    with _pictures(Path("pictures")), captioning(ChatServer()) as captions, embedding() as vectors:
        env = Environment(caption_endpoint=captions.url, embedding_endpoint=vectors.url, threads=1)
        run_stages(params, env)
    with tarfile.open("old_store.tar.gz", "w:gz") as tar:
        for stage in FETCHED:
            tar.add(f".work/{stage}", filter=lambda one: None if one.name.endswith("worked") else one)


if __name__ == "__main__":
    main()
