"""What the headers of a model's files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.errors import ConfigurationError
from components.running.model_weights import (
    check_folder_files,
    check_model_files,
    is_stored_in_bf16,
    weights_in,
)

HALF, OTHER_HALF, WHOLE = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([[HALF, HALF]], True),
        ([[HALF], [HALF]], True),
        ([[HALF, WHOLE]], False),
        ([[HALF], [WHOLE]], False),
        ([[OTHER_HALF]], False),
        ([], False),
    ],
)
def test_all_weights_or_none_are_in_bf16(
    tmp_path: Path, files: list[list[torch.dtype]], expected: bool
) -> None:
    for place, kinds in enumerate(files):
        weights = {f"weight{number}": torch.zeros(2, 3, dtype=kind) for number, kind in enumerate(kinds)}
        save_file(weights, tmp_path / f"model-{place:05d}.safetensors")
    assert is_stored_in_bf16(tmp_path) is expected
    assert weights_in(tmp_path) == 6 * sum(map(len, files))


CONFIG = b'{"model_type": "llama"}'
LORA = b'{"peft_type": "LORA", "base_model_name_or_path": "someone/base-7b"}'
WHOLE_MODEL = {"config.json": CONFIG, "model.safetensors": b"", "tokenizer.json": b""}
INDEX = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'


def quantised(method: str) -> bytes:
    return json.dumps({"model_type": "a", "quantization_config": {"quant_method": method}}).encode()


def only(name: str) -> dict[str, bytes]:
    return {"config.json": CONFIG, "tokenizer.json": b"", name: b""}


@pytest.mark.parametrize("role", ["llm", "clip", "vision_language", "text_encoders"])
@pytest.mark.parametrize(
    "files",
    [
        WHOLE_MODEL,
        {**WHOLE_MODEL, "pytorch_model.bin": b"", "model.gguf": b"", "training_args.bin": b""},
        {**WHOLE_MODEL, "config.json": b'{"model_type": "llama", "quantization_config": null}'},
        {**only("model-00001-of-00002.safetensors"), "model-00002-of-00002.safetensors": b"",
         "model.safetensors.index.json": INDEX},
        {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"", "tokenizer.json": b""},
    ],
)  # fmt: skip
def test_whole_models_are_taken(files: dict[str, bytes], role: str) -> None:
    check_model_files("mine", files, files.get, role)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"adapter_config.json": LORA, "adapter_model.safetensors": b""},
         r"mine is a LoRA adapter of someone/base-7b, without that model's weights; expected a whole model: "
         r"merge the two, `python -c .* ADAPTER MERGED`, .* take the folder MERGED"),
        ({"adapter_config.json": LORA, "adapter_model.bin": b""}, "is a LoRA adapter of someone/base-7b"),
        ({"adapter_config.json": b'{"peft_type": "IA3"}'}, "is a IA3 adapter of a model that it does"),
        ({"adapter_model.safetensors": b"", "tokenizer.json": b""}, "is a PEFT adapter of a model"),
        ({"adapter_config.json": b"{", "adapter_model.safetensors": b""}, "is a PEFT adapter of a model"),
        ({**only("adapter_model.safetensors"), "adapter_config.json": LORA}, "is a LoRA adapter of someone/"),
        ({**WHOLE_MODEL, "adapter_config.json": LORA, "adapter_model.safetensors": b""},
         r"holds a LoRA adapter of someone/base-7b beside a whole model, .*: remove adapter_config\.json"),
        (only("pytorch_model.bin"), r"holds only pytorch_model\.bin, which may run code when read, and"),
        ({"consolidated.00.pth": b""}, r"holds only consolidated\.00\.pth, which may run code"),
        ({"mine.Q4_K_M.gguf": b"", "README.md": b""}, r"only mine\.Q4_K_M\.gguf, which is for llama\.cpp"),
        (only("model.onnx"), r"holds only model\.onnx, which is for ONNX Runtime, and no safetensors"),
        (only("tf_model.h5"), r"holds only tf_model\.h5, "),
        (only("weights.npz"), r"holds only weights\.npz, which is for MLX or JAX"),
        (only("training_args.bin"), "holds no weights and no safetensors"),
        ({}, r"mine has no config\.json"),
        ({"model.safetensors": b"", "tokenizer.json": b""}, r"mine has no config\.json"),
        ({**WHOLE_MODEL, "config.json": quantised("gptq")},
         r"holds quantised weights \(gptq\); expected weights of 16 or 32 bits"),
        ({**WHOLE_MODEL, "config.json": quantised("awq")},
         r"quantised weights \(awq\)"),
        ({**only("model-00001-of-00002.safetensors"), "model.safetensors.index.json": INDEX},
         r"lacks model-00002-of-00002\.safetensors, which its index lists \(1 of 2 missing\)"),
        (only("model-00001-of-00002.safetensors"),
         r"holds model-00001-of-00002\.safetensors and neither model\.safetensors nor .*index\.json"),
        (only("model.fp16.safetensors"), r"holds model\.fp16\.safetensors and neither"),
        ({**WHOLE_MODEL, "model.safetensors.index.json": b"[]"}, r"index\.json is damaged"),
        ({"config.json": CONFIG, "model.safetensors": b"", "tokenizer_config.json": b"{}"},
         r"mine has no tokenizer; expected one of tokenizer\.json, tokenizer\.model, vocab\.json"),
    ],
)  # fmt: skip
def test_what_is_no_whole_model_is_told(files: dict[str, bytes], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        check_model_files("mine", files, files.get, "llm")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigurationError, match=expected):
        check_folder_files(tmp_path, "mine", "llm")
