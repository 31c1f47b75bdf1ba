"""Check the files of a model and count its weights without loading it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from components.errors import ConfigurationError
from components.storage.buckets.bucket import Bucket

WEIGHT_BYTES = {"fp32": 4, "bf16": 2}  # of a weight in memory, whatever its dtype in the file
CONFIGS = ("config.json", "open_clip_config.json")  # either; EVA02 has the second on the hub

WEIGHTS = ".safetensors"
WHOLE = f"model{WEIGHTS}"
INDEX = f"{WHOLE}.index.json"
CLIP, VISION_LANGUAGE = "clip", "vision_language"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model."
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
OTHERS = {  # other formats of weights, and why they are refused
    **dict.fromkeys(PICKLES, "which may run code when read"),
    ".gguf": "which is for llama.cpp",
    ".ggml": "which is for llama.cpp",
    ".onnx": "which is for ONNX Runtime",
    ".tflite": "which is for LiteRT",
    ".npz": "which is for MLX or JAX",
    ".nemo": "which is for NeMo",
}
MERGE = (
    'python -c "import sys; from peft import AutoPeftModelForCausalLM as M; from transformers import '
    "AutoTokenizer as T; a, out = sys.argv[1:]; m = M.from_pretrained(a); "
    "base = m.active_peft_config.base_model_name_or_path; m.merge_and_unload().save_pretrained(out); "
    'T.from_pretrained(base).save_pretrained(out)" ADAPTER MERGED'
)


def check_model_files(
    location: str,
    names: Collection[str],
    read: Callable[[str], bytes | None],
    role: str,
) -> None:
    """Check by the file names at the top of a folder, bucket or repository that it holds a whole model.

    Args:
        location: Name of the folder, bucket or repository in messages.
        names: File names.
        read: Returns the bytes of a small JSON file; None if it does not exist.
        role: Section of base_models: `llm`, `clip`, `vision_language` or `text_encoders`.

    Raises:
        ConfigurationError: it is an adapter, or weights, config or tokenizer are missing or of another kind.
    """
    if ADAPTER in names or any(name.startswith(ADAPTER_WEIGHTS) for name in names):
        raise ConfigurationError(_adapter_message(location, names, read))
    weights = {name for name in names if name.endswith(WEIGHTS)}
    others = sorted(
        name for name in names if PurePosixPath(name).suffix in OTHERS and name != "training_args.bin"
    )
    if others and not weights:
        kind = PurePosixPath(others[0]).suffix
        raise ConfigurationError(
            f"{location} holds only {others[0]}, {OTHERS[kind]}, and no safetensors; expected *.safetensors: "
            "convert it, or take another revision"
        )
    if not any(name in names for name in CONFIGS):
        raise ConfigurationError(
            f"{location} has no config.json; expected a model in Hugging Face layout, or an EVA02 checkpoint "
            "with the config of EVA-CLIP, open_clip or timm"
        )
    if not weights:
        raise ConfigurationError(
            f"{location} holds no weights and no safetensors; expected *.safetensors: convert it, or take "
            "another revision"
        )
    config = _tree(read("config.json"))
    method = _quantisation(config)
    if method and role != VISION_LANGUAGE:  # a vision-language model is neither trained nor merged
        raise ConfigurationError(
            f"{location} holds quantised weights ({method}); expected weights of 16 or 32 bits: "
            "take the model before quantisation"
        )
    _check_parts(location, weights, listed_weights(location, read(INDEX)), is_named="model_type" in config)
    # a vision tower needs no tokenizer
    if role != CLIP and not any(name in names for name in TOKENIZERS):
        raise ConfigurationError(
            f"{location} has no tokenizer; expected one of {', '.join(TOKENIZERS)}: add the tokenizer "
            "that the model was published with"
        )


def check_folder_files(folder: Path, location: str, role: str) -> None:
    """Check that a folder holds a whole model; see `check_model_files`."""

    def read(name: str) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).is_file() else None

    check_model_files(location, [path.name for path in folder.glob("*") if path.is_file()], read, role)


def check_bucket_files(bucket: Bucket, role: str) -> None:
    """Check that a bucket holds a whole model; see `check_model_files`."""

    def read(name: str) -> bytes | None:
        data = bucket.read(name)
        return data[0] if data else None

    check_model_files(bucket.uri, [name for name in bucket.names() if "/" not in name], read, role)


def listed_weights(location: str, index: bytes | None) -> set[str]:
    """Return the weight files that an index lists; none without an index.

    Raises:
        ConfigurationError: the index is damaged.
    """
    if index is None:
        return set()
    try:
        return set(json.loads(index)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(
            f"{location}/{INDEX} is damaged; expected JSON with a weight_map: download it again"
        ) from None


def _adapter_message(source: str, names: Collection[str], read: Callable[[str], bytes | None]) -> str:
    """Return the error message for a model folder that holds an adapter."""
    config = _tree(read(ADAPTER))
    kind = str(config.get("peft_type") or "PEFT")[:40]
    kind = "LoRA" if kind == "LORA" else kind
    base = str(config.get("base_model_name_or_path") or "a model that it does not name")[:200]
    if any(name.endswith(WEIGHTS) and not name.startswith(ADAPTER_WEIGHTS) for name in names):
        return (
            f"{source} holds a {kind} adapter of {base} beside a whole model, and transformers would read "
            f"the adapter; expected one of them: remove {ADAPTER} and {ADAPTER_WEIGHTS}*, or merge the "
            f"adapter first, `{MERGE}`"
        )
    return (
        f"{source} is a {kind} adapter of {base}, without that model's weights; expected a whole model: "
        f"merge the two, `{MERGE}`, where ADAPTER is the adapter's folder or its id on the hub, and take the "
        "folder MERGED"
    )


def _check_parts(source: str, weights: set[str], index_files: set[str], *, is_named: bool) -> None:
    if missing := sorted(index_files - weights):
        raise ConfigurationError(
            f"{source} lacks {missing[0]}, which its index lists ({len(missing)} of {len(index_files)} "
            "missing); expected all: download it again"
        )
    if is_named and not index_files and WHOLE not in weights:
        raise ConfigurationError(
            f"{source} holds {sorted(weights)[0]} and neither {WHOLE} nor {INDEX}; expected one of them: "
            "download the model whole"
        )


def _quantisation(config: dict[str, Any]) -> str | None:
    section = config.get("quantization_config")
    if not section:
        return None
    return str(section.get("quant_method") if isinstance(section, dict) else section)[:40]


def _tree(data: bytes | None) -> dict[str, Any]:
    try:
        tree = json.loads(data or b"{}")
    except ValueError:  # reported when the model is loaded
        return {}
    return tree if isinstance(tree, dict) else {}


def weights_in(folder: Path) -> int:
    """Count the weights of a folder's safetensors files by their headers; 0 without such files.

    Raises:
        SafetensorError: a file is damaged.
    """
    return sum(prod(shape) for _, shape in _headers(folder))


def is_stored_in_bf16(folder: Path) -> bool:
    """Return True if the headers of a folder's safetensors files name bf16 weights and no others.

    Raises:
        SafetensorError: a file is damaged.
    """
    return {kind for kind, _ in _headers(folder)} == {"BF16"}


def _headers(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield the kind and the shape of each weight."""
    from safetensors import safe_open

    for path in sorted(folder.glob(f"*{WEIGHTS}")):
        with safe_open(path, "np") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                weight = file.get_slice(key)
                yield weight.get_dtype(), weight.get_shape()
