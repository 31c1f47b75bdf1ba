"""Speed and memory of tuning and embedding with an LLM of a real size, on one device.

    python -m bench.large_llm --data FOLDER --device cuda [--llm llama_3_8b] [--chunks 64 32 16]

The LLM is made on the spot, with the sizes of a published one and random weights, which cost as much as
trained ones. Captions are those of Multi30k, one by one and four joined, because dense captions are that
long. Embedding runs as in embed_captions. Tuning is a step of LoRA with the params of the preset cc3m, once
for each number of chunks. Each figure is of one run, after a warm-up run of the same kind. At the end the
tuned model is merged, saved and verified once, as in tune_llm; that takes no more GPU memory than before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import AutoModel, LlamaConfig

from bench.measuring import say
from components.ml.text.bpe import train_bpe
from components.ml.text.encoder import TextEncoder, encode_tokens, load_text_encoder, tokenise
from components.planning.tune_llm import passes
from components.running.precision import resolved
from components.settings.params import Params, load_params
from components.settings.tune_llm import TuneLlm
from components.tune_llm.caption_rows import CaptionRows, CaptionTexts
from components.tune_llm.pairs import PairDraws
from components.tune_llm.phases import held_precision, opened
from components.tune_llm.saving import save_tuned
from components.tune_llm.tuning import phase_run

PRESET = Path(__file__).parents[1] / "presets" / "cc3m.yaml"
CAPTIONS_OF_TOKENIZER, TOKENS_OF_TOKENIZER = 20_000, 12_000
SEED = 7
FORWARD = 2  # operations for each token and weight
GIGA, TERA = 1e9, 1e12
LLMS = {
    "llama_3_8b": {
        "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "llama_3_2_1b": {
        "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 12_000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1,
    },
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--chunks", type=int, nargs="*", default=[64, 32, 16])
    parser.add_argument(
        "--captions", type=int, default=20_000, help="to embed; of four joined, a quarter of them"
    )
    parser.add_argument("--pairs", type=int, default=2048, help="of a step of tuning")
    parser.add_argument("--llm", choices=LLMS, default="llama_3_2_1b")
    parser.add_argument("--checkpointing", action="store_true", help="of gradients: less memory, slower")
    options = parser.parse_args(arguments)
    table = pq.read_table(options.data / "text" / "multi30k_task2_text_only.parquet", columns=["en"])
    rows: list[list[str]] = [row["en"] for row in table.to_pylist()]
    params = resolved(load_params(PRESET), "tune_llm", options.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = _make(folder, rows, options)
        say(f"{_device_name(options.device)}, torch {torch.__version__}: an LLM of {weights:,} weights")
        _embed(folder, rows, params, options, weights)
        for chunks in options.chunks:
            _tune(folder, rows, params, options, chunks, weights)


def _make(folder: Path, rows: list[list[str]], options: argparse.Namespace) -> int:
    """Write the LLM, in bf16 as it is published, and return its number of weights."""
    sizes = LLMS[options.llm]
    texts = [text for row in rows for text in row][:CAPTIONS_OF_TOKENIZER]
    train_bpe(texts, TOKENS_OF_TOKENIZER, 512).save_pretrained(folder)
    torch.manual_seed(SEED)
    with torch.device(options.device):
        config = LlamaConfig(**sizes, max_position_embeddings=8192)
        model = AutoModel.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def _embed(
    folder: Path, rows: list[list[str]], params: Params, options: argparse.Namespace, weights: int
) -> None:
    settings = params.embed_captions
    encoder = _load(folder, params.tune_llm, options.device, settings.precision)
    captions = [text for row in rows for text in row][: options.captions]
    joined_captions = [" ".join(captions[start : start + 4]) for start in range(0, len(captions), 4)]
    for name, texts in (("captions", captions), ("captions, four joined,", joined_captions)):
        tokens = tokenise(encoder, texts)
        seconds, peak = _measured(
            options.device, partial(encode_tokens, encoder, tokens, settings.batch_tokens, settings.precision)
        )
        count = sum(len(row.ids) for row in tokens)
        say(
            f"embedding {name} of {count / len(texts):.0f} tokens: {len(texts) / seconds:,.0f} a second, "
            f"{FORWARD * weights * count / seconds / TERA:.0f} TFLOP/s{peak}"
        )


def _tune(
    folder: Path,
    rows: list[list[str]],
    params: Params,
    options: argparse.Namespace,
    chunks: int,
    weights: int,
) -> None:
    phase = params.tune_llm.phases[0].model_copy(update={"batch_size": options.pairs, "steps": 2})
    settings = params.tune_llm.model_copy(
        update={"chunks": chunks, "phases": [phase], "gradient_checkpointing": options.checkpointing}
    )
    _reset_peak(options.device)
    encoder = _load(folder, settings, options.device, held_precision(settings, folder))
    say(f"loaded to be tuned, in {encoder.precision}{_peak(options.device)}")
    columns = {name for kind in phase.pairs for name in (kind.first, kind.second)}
    caption_rows = CaptionRows.of(
        {
            f"{number:09d}": dict(zip(sorted(columns), ([text] for text in row), strict=False))
            for number, row in enumerate(rows)
        }
    )
    draws = PairDraws(caption_rows, phase, SEED)
    with opened(encoder, settings, "replicated", SEED) as adapter:
        run = phase_run(encoder, settings, phase, draws, "tuning", SEED)
        steps = iter(range(phase.steps))
        seconds, peak = _measured(options.device, lambda: run.step(next(steps)))
    batch = draws.batch(phase.steps - 1)
    tokens = tokenise(encoder, batch.first, batch.query_prompt) + tokenise(encoder, batch.second)
    count = sum(len(row.ids) for row in tokens)
    say(
        f"tuning by {settings.method}, {options.pairs} pairs of captions of {count / len(tokens):.0f} tokens "
        f"in {chunks} chunks: {seconds:.2f} s, {options.pairs / seconds:.0f} pairs a second, "
        f"{FORWARD * passes(settings) * weights * count / seconds / TERA:.0f} TFLOP/s{peak}"
    )
    if chunks == options.chunks[-1]:
        del run
        _reset_peak(options.device)
        start_seconds = time.monotonic()
        save_tuned(
            folder / "tuned", encoder, adapter, settings, CaptionTexts(caption_rows, caption_rows.columns)
        )
        seconds = time.monotonic() - start_seconds
        say(f"merging, saving and verifying it: {seconds:.0f} s{_peak(options.device)}")


def _load(folder: Path, settings: TuneLlm, device: str, precision: str) -> TextEncoder:
    return load_text_encoder(folder, **settings.encoding.model_dump(), device=device, precision=precision)


def _measured(device: str, work: Callable[[], Any]) -> tuple[float, str]:
    """Run `work` twice; return the seconds of the second run, and its peak GPU memory as text."""
    work()
    _reset_peak(device)
    start_seconds = time.monotonic()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - start_seconds, _peak(device)


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> str:
    return f", peak {torch.cuda.max_memory_allocated() / GIGA:.1f} GB" if device == "cuda" else ""


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


if __name__ == "__main__":
    main()
