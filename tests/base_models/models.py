"""A tiny Llama in Hugging Face layout, and the hub's cache as huggingface_hub lays it out."""

from __future__ import annotations

from hashlib import sha1, sha256
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from components.ml.text.bpe import train_bpe

REVISION = "0123456789abcdef0123456789abcdef01234567"


def write_llama(folder: Path) -> Path:
    tokenizer = train_bpe(["a red circle", "two blue squares"], 64, 32)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def into_cache(model: Path, cache: Path, name: str) -> Path:
    """Move a model into a cache; return its snapshot, whose files link to blobs named by their hash."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / REVISION, repository / "blobs"
    blobs.mkdir(parents=True)
    for path in sorted(model.rglob("*.*")):
        data = path.read_bytes()
        # large files are named by their sha256, small ones as git names them
        is_large = path.suffix == ".safetensors"
        digest = sha256(data) if is_large else sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
        link = snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / digest.hexdigest())
        link.symlink_to("../" * (len(link.relative_to(repository).parts) - 1) + f"blobs/{digest.hexdigest()}")
    return snapshot
