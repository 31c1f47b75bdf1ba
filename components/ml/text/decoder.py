"""Load a decoder LLM and its tokenizer, or check them without reading weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)


def load_decoder(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load the tokenizer and the model of a folder, with weights as `dtype`, whatever the dtype of the file.

    Buffers that are computed from the config, not stored, stay float32.

    Raises:
        ValueError: they do not load, the model is no decoder or incomplete, or they do not fit each other.
    """
    tokenizer, model = _load(folder, dtype=dtype)
    if dtype is not torch.float32:
        _compute_buffers(model)
    return tokenizer, model


def _compute_buffers(model: Any) -> None:  # noqa: ANN401 - as transformers has it
    """Recompute buffers that transformers rounded with the weights, such as Gemma's scale of embeddings."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        exact = AutoModel.from_config(model.config, dtype=torch.float32)
    stored = model.state_dict().keys()
    for name, buffer in exact.named_buffers():
        if name not in stored:
            part, _, buffer_name = name.rpartition(".")
            setattr(model.get_submodule(part), buffer_name, buffer)


def check_decoder(folder: Path) -> None:
    """Check all that `load_decoder` checks, from the headers of the weight files.

    Raises:
        ValueError: see `load_decoder`.
    """
    _load(folder, device_map="meta")


def absent_weights(folder: Path) -> list[str]:
    """Return the missing weights of a model of any kind, from the headers of its weight files.

    Raises:
        OSError: it has no config or no safetensors.
        ValueError: transformers does not know its type.
    """
    return read_model(folder, device_map="meta")[1]


def _load(folder: Path, **options: Any) -> tuple[Any, Any]:  # noqa: ANN401 - as transformers takes it
    if not folder.is_dir():
        raise ValueError(f"{folder} not found; expected a language model in Hugging Face layout")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _check_kind(config)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer.truncation_side = "right"  # of a long text the start is read
        model, missing, unexpected = read_model(folder, **options)
    except (OSError, KeyError, ImportError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{folder} holds no language model and tokenizer that load: {_first_line(error)}"
        ) from None
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} weights are missing or of another shape ({', '.join(missing[:5])}); "
            "expected all of the model that its config.json names"
        )
    if unexpected:
        raise ValueError(
            f"{folder}: {len(unexpected)} weights do not fit the parts of the model that they name "
            f"({', '.join(unexpected[:5])}); expected the config.json that belongs to the weights"
        )
    embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embeddings:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model embeds {embeddings}: expected "
            "the tokenizer that belongs to the model"
        )
    return tokenizer, model


def read_model(
    folder: Path,
    kind: Any = AutoModel,  # noqa: ANN401
    **how: Any,  # noqa: ANN401
) -> tuple[Any, list[str], list[str]]:
    """Load a model without remote code; return it with its missing and its unexpected weights.

    Missing weights include those of another shape. Unexpected weights are those of its own parts, such as
    biases or more layers than the config says; further parts, such as an output layer, are ignored.
    """
    model, report = kind.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are reported as missing
        **{"dtype": torch.float32, **how},
    )
    # transformers would only warn and leave these random
    missing = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    return model, missing, sorted(name for name in report["unexpected_keys"] if _is_of(model, name))


def _is_of(model: Any, name: str) -> bool:  # noqa: ANN401
    part = name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]
    is_computed = name.endswith("inv_freq")  # stored in older files
    return part in dict(model.named_children()) and not is_computed


def _check_kind(config: Any) -> None:  # noqa: ANN401 - a config of transformers
    kind: str = config.model_type
    is_decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    # a model with several towers has no hidden_size here
    if not is_decoder or getattr(config, "hidden_size", None) is None:
        raise ValueError(f"a model of type {kind}; expected a text-only decoder, such as llama or qwen3")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
