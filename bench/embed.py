"""Embedding by embed_captions against sentence-transformers: CPU seconds, memory and vectors.

    python -m bench.embed --data ../shared/data [--captions 100000] [--turns 3]

Both use the same small Llama (stories260K) with bidirectional attention and mean pooling. They run in turns,
each in its own process on one core. The tokenizer puts a bos before a text. Ours leaves it out of the mean,
which sentence-transformers cannot, so it is removed from the tokenizer for both. Captions are distinct, as
the stage embeds none twice. Seconds cover tokenising and encoding, without imports and loading.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import torch

from bench.measuring import KIBIBYTE, say
from components.ml.text.encoder import encode, load_text_encoder, token_batches, tokenise

MODEL = "models/stories260K"
MAX_TOKENS = 512
OURS_TOKENS, PEER_CAPTIONS = 2048, 32  # a batch; the second is the default of sentence-transformers
ENCODING: dict[str, Any] = {
    "attention": "bidirectional", "pooling": "mean", "template": "{text}", "max_tokens": MAX_TOKENS
}  # fmt: skip
REQUIRED_RATIO, LARGEST_DIFFERENCE = 1.4, 1e-3
ONE_CORE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement; exit 1 if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--captions", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        _embed(options.side)
        return
    with TemporaryDirectory() as name:
        work = Path(name)
        _prepare(options.data, work, options.captions)
        say(f"padding: {_padding(work):.2%} of the tokens of our batches, the most that packing could save")
        if not _compare(work, options.captions, options.turns):
            sys.exit(1)


def real_captions(data: Path, count: int) -> list[str]:
    """Return distinct English captions of Flickr8k and Multi30k, as people wrote them."""
    columns = ["language", "captions"]
    flickr_rows = pq.read_table(data / "flickr8k" / "captions.parquet", columns=columns).to_pylist()
    multi30k_rows = pq.read_table(
        data / "text" / "multi30k_task2_text_only.parquet", columns=["en"]
    ).to_pylist()
    texts = dict.fromkeys(text for row in flickr_rows if row["language"] == "en" for text in row["captions"])
    texts |= dict.fromkeys(text for row in multi30k_rows for text in row["en"])
    if len(texts) < count:
        sys.exit(f"{data} holds {len(texts)} distinct captions; expected {count}: give --captions")
    return list(texts)[:count]


def _prepare(data: Path, work: Path, count: int) -> None:
    (work / "texts.json").write_text(json.dumps(real_captions(data, count)))
    model = work / "llm"
    model.mkdir()
    shutil.copyfile(data / MODEL / "model.safetensors", model / "model.safetensors")
    shutil.copyfile(data / MODEL / "tokenizer_config.json", model / "tokenizer_config.json")
    for name, change in (("config.json", {"is_causal": False}), ("tokenizer.json", {"post_processor": None})):
        tree = json.loads((data / MODEL / name).read_text("utf-8"))
        (model / name).write_text(json.dumps({**tree, **change}))


def _padding(work: Path) -> float:
    """Return the share of padding among the tokens of our batches."""
    encoder = load_text_encoder(work / "llm", **ENCODING)
    lengths = [len(row.ids) for row in tokenise(encoder, json.loads((work / "texts.json").read_text()))]
    padded = sum(
        len(batch) * max(lengths[row] for row in batch) for batch in token_batches(lengths, OURS_TOKENS)
    )
    return 1 - sum(lengths) / padded


def _compare(work: Path, count: int, turns: int) -> bool:
    say(f"{count:,} captions, {turns} turns, one core each, torch {torch.__version__}")
    command = [sys.executable, "-m", "bench.embed", "--side"]
    environment = {**ONE_CORE, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(turns):
        for side, side_seconds in seconds.items():
            # each is one process and reads its own peak at its end; a watcher beside it would slow it
            subprocess.run([*command, side], cwd=work, env={**os.environ, **environment}, check=True)
            cost = json.loads((work / f"{side}.json").read_text())
            side_seconds.append(cost["seconds"])
            say(f"  {side}: {cost['seconds']:.1f} CPU s, peak {cost['peak_bytes'] / 1e6:.0f} MB")
    ours, peer = (torch.load(work / f"{side}.pt", weights_only=True) for side in SIDES)
    difference = float((ours - peer).abs().max())
    ratios = [
        peer_seconds / our_seconds
        for our_seconds, peer_seconds in zip(seconds["ours"], seconds["peer"], strict=True)
    ]
    say(
        f"sentence-transformers / ours: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), at "
        f"least {REQUIRED_RATIO} is required; largest difference {difference:.1e} of values up to "
        f"{float(peer.abs().max()):.1f}, at most {LARGEST_DIFFERENCE:g}"
    )
    return median(ratios) >= REQUIRED_RATIO and difference <= LARGEST_DIFFERENCE


def _embed(side: str) -> None:
    """Embed with one side in this process, which does nothing else."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    texts = json.loads(Path("texts.json").read_text())
    embed = SIDES[side](Path("llm"))
    start_seconds = time.process_time()
    vectors = embed(texts)
    seconds = time.process_time() - start_seconds
    torch.save(vectors, f"{side}.pt")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE
    Path(f"{side}.json").write_text(json.dumps({"seconds": seconds, "peak_bytes": peak}))


def _ours(folder: Path) -> Callable[[list[str]], torch.Tensor]:
    encoder = load_text_encoder(folder, **ENCODING)
    return lambda texts: encode(encoder, texts, OURS_TOKENS)


def _peer(folder: Path) -> Callable[[list[str]], Any]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(folder), max_seq_length=MAX_TOKENS)
    pooling = Pooling(transformer.get_embedding_dimension())
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    return lambda texts: model.encode(texts, batch_size=PEER_CAPTIONS, convert_to_tensor=True)


SIDES = {"ours": _ours, "peer": _peer}

if __name__ == "__main__":
    main()
