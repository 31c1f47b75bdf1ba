"""Captions embedded by the way of embed_captions and by sentence-transformers: CPU seconds, memory, vectors.

    python -m bench.embed --data ../shared/data [--captions 100000] [--turns 3]

Both read the same small Llama (stories260K), attend both ways, pool by the mean and have one core and a
process of their own, in turns. Its tokenizer puts a bos before a text; ours leaves that out of the mean, and
sentence-transformers cannot: so it is taken out of the tokenizer for both. Captions are distinct, as the
stage embeds none twice. Seconds are those of tokenising and encoding, without imports and loading.
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
OURS_TOKENS, PEER_CAPTIONS = 2048, 32  # a batch; the second is what sentence-transformers does when not told
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
    with TemporaryDirectory() as there:
        work = Path(there)
        _prepare(options.data, work, options.captions)
        say(f"padding: {_padding(work):.2%} of the tokens of our batches, all that packing could save")
        if not _compare(work, options.captions, options.turns):
            sys.exit(1)


def real_captions(data: Path, count: int) -> list[str]:
    """Return distinct English captions of Flickr8k and Multi30k, as people wrote them."""
    columns = ["language", "captions"]
    own = pq.read_table(data / "flickr8k" / "captions.parquet", columns=columns).to_pylist()
    more = pq.read_table(data / "text" / "multi30k_task2_text_only.parquet", columns=["en"]).to_pylist()
    found = dict.fromkeys(text for row in own if row["language"] == "en" for text in row["captions"])
    found |= dict.fromkeys(text for row in more for text in row["en"])
    if len(found) < count:
        sys.exit(f"{data} holds {len(found)} distinct captions; expected {count}: give --captions")
    return list(found)[:count]


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
    """Return which share of the tokens of our batches is padding."""
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
        for side, of_side in seconds.items():
            # each is one process: its own peak is read at its end, for a watcher beside it would slow it
            subprocess.run([*command, side], cwd=work, env={**os.environ, **environment}, check=True)
            cost = json.loads((work / f"{side}.json").read_text())
            of_side.append(cost["seconds"])
            say(f"  {side}: {cost['seconds']:.1f} CPU s, peak {cost['peak_bytes'] / 1e6:.0f} MB")
    ours, peer = (torch.load(work / f"{side}.pt", weights_only=True) for side in SIDES)
    difference = float((ours - peer).abs().max())
    ratios = [theirs / own for own, theirs in zip(seconds["ours"], seconds["peer"], strict=True)]
    say(
        f"sentence-transformers / ours: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), at "
        f"least {REQUIRED_RATIO} is asked; largest difference {difference:.1e} of values up to "
        f"{float(peer.abs().max()):.1f}, at most {LARGEST_DIFFERENCE:g}"
    )
    return median(ratios) >= REQUIRED_RATIO and difference <= LARGEST_DIFFERENCE


def _embed(side: str) -> None:
    """Embed in this process, which is all of one side's."""
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
