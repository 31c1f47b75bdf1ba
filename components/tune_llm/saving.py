"""Save a tuned LLM and verify what was saved; the bytes depend on the weights alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from components.errors import DataError
from components.ml.text.encoder import TextEncoder, encode, load_text_encoder
from components.ml.text.sentence_transformers_export import write_layout
from components.settings.tune_llm import TuneLlm
from components.storage.atomic import read_json, write_json
from components.tune_llm.caption_rows import CaptionTexts

if TYPE_CHECKING:
    from peft import PeftModel

PROBE_TEXTS = 16
PROBE_BATCH_TOKENS = 1024
log = logging.getLogger("llm2clip")
MOST_MOVE = 1e-3  # share of the largest value; merging a LoRA rounds at about 1e-6


@dataclass(frozen=True)
class LoraAdapter:
    """The LoRA of a tuned language model.

    Attributes:
        wrapper: PEFT's, around the model.
        merged: Matrices of the earlier LoRA of `mntp`, already merged into the model's weights; of equal rank
            and alpha. Empty where there was none.
    """

    wrapper: PeftModel
    merged: dict[str, torch.Tensor]


def encoding_of(params: TuneLlm) -> dict[str, Any]:
    """Return the content of `encoding.json`: how a text becomes a vector."""
    prompts = {
        f"{kind.first}_to_{kind.second}": kind.query_prompt
        for phase in params.phases
        for kind in phase.pairs
        if kind.query_prompt
    }
    return {**params.encoding.model_dump(), "query_prompts": dict(sorted(prompts.items()))}


def save_tuned(
    folder: Path, encoder: TextEncoder, adapter: LoraAdapter | None, params: TuneLlm, texts: CaptionTexts
) -> None:
    """Save `llm/`, `encoding.json` and, for LoRA, `adapter/`, in float32, and verify what was saved.

    `llm/` loads in transformers. It also loads in sentence-transformers, with the same vectors, where that
    format can express the encoding. Everything runs on the CPU with one model at a time: a GPU that can tune
    a model may not hold it in float32. The trained model has no weights afterwards.

    Raises:
        DataError: the saved model gives other vectors than the trained one.
    """
    encoder.model.eval().cpu().float()
    probe_texts = [texts[number] for number in range(min(PROBE_TEXTS, len(texts)))]
    trained_vectors = encode(encoder, probe_texts, PROBE_BATCH_TOKENS)
    encoding = encoding_of(params)
    write_json(folder / "encoding.json", encoding)
    model: Any = encoder.model
    if adapter is not None:
        _save_adapter(folder / "adapter", adapter, encoding)
        model = adapter.wrapper.merge_and_unload()
    model.save_pretrained(folder / "llm")
    if backend := getattr(encoder.tokenizer, "backend_tokenizer", None):
        backend.no_truncation()  # the truncation set for the last texts is not part of the model
    encoder.tokenizer.save_pretrained(folder / "llm")
    if reason := write_layout(folder / "llm", encoder):
        log.warning("the tuned LLM will not load in sentence-transformers: %s", reason)
    model.to("meta")
    saved = load_tuned(folder, "cpu", "fp32")
    change = float(
        (encode(saved, probe_texts, PROBE_BATCH_TOKENS) - trained_vectors).abs().max()
        / trained_vectors.abs().max()
    )
    if not change <= MOST_MOVE:
        raise DataError(
            f"the saved language model's vectors differ from the trained one's by {change:.1e} of their "
            f"size; expected {MOST_MOVE:g} or less: the model changes when saved, report its architecture"
        )


def load_tuned(folder: Path, device: str, precision: str) -> TextEncoder:
    """Load a model that `save_tuned` saved, with weights in `precision`."""
    return load_text_encoder(
        folder / "llm", **read_json(folder / "encoding.json"), device=device, precision=precision
    )


def lora_tensors(adapter: PeftModel) -> dict[str, torch.Tensor]:
    """Return CPU copies of a LoRA's matrices, by the names under which they are saved."""
    from peft import get_peft_model_state_dict

    return {name: tensor.to("cpu", copy=True) for name, tensor in get_peft_model_state_dict(adapter).items()}


def _save_adapter(folder: Path, adapter: LoraAdapter, encoding: dict[str, Any]) -> None:
    """Save one adapter of the base model; the matrices of `mntp`'s LoRA are concatenated to its own."""
    adapter.wrapper.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = read_json(folder / "adapter_config.json")
    if adapter.merged:
        tensors = lora_tensors(adapter.wrapper)
        concatenated = {
            name: torch.cat([adapter.merged[name], tensor], dim=0 if ".lora_A." in name else 1)
            for name, tensor in tensors.items()
        }
        save_file(concatenated, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config |= {name: 2 * config[name] for name in ("r", "lora_alpha")}  # alpha / r stays the same
    config["base_model_name_or_path"] = None  # it is a path on the machine that trained it
    config["target_modules"] = sorted(config["target_modules"])  # a set, in random order
    write_json(folder / "adapter_config.json", config)
    # on a base with causal attention the adapter would be silently wrong
    write_json(folder / "encoding.json", encoding)


@torch.no_grad()
def trained_share(encoder: TextEncoder) -> dict[str, int]:
    """Return the number of weights, and of those that are trained."""
    weights = list(encoder.model.parameters())
    return {
        "weights": sum(weight.numel() for weight in weights),
        "learning": sum(weight.numel() for weight in weights if weight.requires_grad),
    }
