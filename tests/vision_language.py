"""Tiny vision-language models of random weights, one of each family, in the hub's layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    BartConfig,
    Blip2Config,
    CLIPVisionConfig,
    Florence2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
    T5Config,
)

from components.ml.text.bpe import SPECIAL_TOKENS, train_bpe

MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
WORDS = ["a red circle on a white beach", "two small dogs run over the green grass.", "describe the image"]
PAD, _, BOS, EOS = range(len(SPECIAL_TOKENS))
LLAVA_CHAT = (
    "{% for message in messages %}{{ message.role | upper }}: {% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CLIP_SIDE = 28  # pixels
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": CLIP_SIDE,
    "patch_size": 14,
}


def _tokenizer(*tokens: str, image_token: str | None) -> PreTrainedTokenizerFast:
    """Return a tokenizer with more special tokens, one of which it knows as its image token, or none."""
    tokenizer = train_bpe(WORDS, 120, 256)
    tokenizer.add_special_tokens({"extra_special_tokens": list(tokens)})
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": image_token} if image_token else {},
    )


def _write(
    folder: Path, config: Any, tokenizer: PreTrainedTokenizerFast, images: dict[str, Any], **processor: Any
) -> None:
    torch.manual_seed(5)
    model = AutoModelForImageTextToText.from_config(config)
    for weights in model.parameters():
        if weights.ndim > 1:  # loud enough that images and tokens make a difference after few layers
            torch.nn.init.normal_(weights, std=0.4)
    model.generation_config.update(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=True, temperature=0.3, num_beams=3,
        early_stopping=True, no_repeat_ngram_size=3, forced_eos_token_id=EOS,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shared = {"do_normalize": True, "image_mean": MEAN, "image_std": STD, "do_convert_rgb": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({**shared, **images}))
    if template := processor.pop("chat_template", None):
        (folder / "chat_template.jinja").write_text(template)
    (folder / "processor_config.json").write_text(json.dumps(processor))


def _clip_images(kind: str) -> dict[str, Any]:
    return {
        "image_processor_type": kind,
        "size": {"shortest_edge": CLIP_SIDE},
        "crop_size": {"height": CLIP_SIDE, "width": CLIP_SIDE},
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "resample": 3,
    }


def write_florence2(folder: Path) -> None:
    """Encoder and decoder, prompts are task tokens, the image is placed by the processor."""
    tokenizer = _tokenizer("<image>", image_token="<image>")
    bart = {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
        "vocab_size": len(tokenizer),
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "decoder_start_token_id": EOS,
        "forced_eos_token_id": None,
    }  # fmt: skip
    vision = {
        "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
        "patch_prenorm": [False, True], "embed_dim": [16, 32], "num_heads": [2, 4], "num_groups": [2, 4],
        "window_size": 4, "projection_dim": 32, "drop_path_rate": 0.0,
    }  # fmt: skip
    config = Florence2Config(
        text_config=BartConfig(**bart).to_dict(),
        vision_config=vision,
        image_token_id=tokenizer.image_token_id,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    images = {
        "image_processor_type": "CLIPImageProcessor", "size": {"height": 32, "width": 32}, "do_resize": True,
        "do_center_crop": False, "do_rescale": True, "resample": 3, "image_seq_length": 17,
    }  # fmt: skip
    _write(folder, config, tokenizer, images, processor_class="Florence2Processor")


def _write_blip2(folder: Path, text: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    qformer = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "encoder_hidden_size": 32,
    }  # fmt: skip
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = {
        "image_processor_type": "BlipImageProcessor", "size": {"height": 28, "width": 28}, "do_resize": True,
        "do_rescale": True, "resample": 3,
    }  # fmt: skip
    _write(folder, config, tokenizer, images, processor_class="Blip2Processor", num_query_tokens=4)


def write_blip2(folder: Path) -> None:
    """OPT behind a Q-Former: bare prompts, the image is placed by the processor."""
    tokenizer = _tokenizer("<image>", image_token=None)
    opt = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=256, bos_token_id=BOS, eos_token_id=EOS,
        pad_token_id=PAD,
    )  # fmt: skip
    _write_blip2(folder, opt, tokenizer)


def write_blip2_t5(folder: Path) -> None:
    """T5 behind a Q-Former, as in BLIP-2 FlanT5: an encoder and a decoder."""
    tokenizer = _tokenizer("<image>", image_token=None)
    t5 = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2,
        num_heads=4, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD,
    )  # fmt: skip
    _write_blip2(folder, t5, tokenizer)


def write_llava(folder: Path) -> None:
    """LLaVA-1.5: CLIP, two linear layers, Llama; its processor has a chat template."""
    tokenizer = _tokenizer("<image>", image_token="<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**CLIP).to_dict(),
        text_config=LlamaConfig(**LLAMA, vocab_size=len(tokenizer)).to_dict(),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=4,
    )
    _write(
        folder, config, tokenizer, _clip_images("CLIPImageProcessor"), chat_template=LLAVA_CHAT,
        patch_size=14, processor_class="LlavaProcessor", vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


def write_llava_next(folder: Path) -> None:
    """LLaVA-NeXT: as many tiles as the shape of the image asks for."""
    tokenizer = _tokenizer("<image>", image_token="<image>")
    tiles = [[CLIP_SIDE, 2 * CLIP_SIDE], [2 * CLIP_SIDE, CLIP_SIDE], [2 * CLIP_SIDE, 2 * CLIP_SIDE]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**CLIP).to_dict(),
        text_config=LlamaConfig(**LLAMA, vocab_size=len(tokenizer)).to_dict(),
        image_token_index=tokenizer.image_token_id,
        image_grid_pinpoints=tiles,
        image_seq_length=4,
    )
    images = {**_clip_images("LlavaNextImageProcessor"), "image_grid_pinpoints": tiles}
    _write(
        folder, config, tokenizer, images, chat_template=LLAVA_CHAT, patch_size=14,
        processor_class="LlavaNextProcessor", vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


def _write_qwen(folder: Path, kind: Any, vision: dict[str, Any], text: dict[str, Any], patch: int) -> None:
    tokenizer = _tokenizer(
        "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>",
        image_token="<|image_pad|>",
    )  # fmt: skip
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", "<|image_pad|>"),
            ("video_token_id", "<|video_pad|>"),
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
        )
    }
    config = kind(
        vision_config={"depth": 2, "num_heads": 4, "patch_size": patch, **vision},
        text_config={**LLAMA, "vocab_size": len(tokenizer), "max_position_embeddings": 512, **text},
        **ids,
    )
    images = {
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": patch, "temporal_patch_size": 2,
        "merge_size": 2, "size": {"shortest_edge": 4 * patch**2, "longest_edge": 64 * patch**2},
        "do_resize": True, "do_rescale": True, "resample": 3,
    }  # fmt: skip
    _write(
        folder,
        config,
        tokenizer,
        images,
        chat_template=QWEN_CHAT,
        processor_class=f"{kind.__name__[:-6]}Processor",
    )
    (folder / "video_preprocessor_config.json").write_text(
        '{"video_processor_type": "Qwen2VLVideoProcessor"}'
    )


def write_qwen2_vl(folder: Path) -> None:
    """Qwen2-VL: as many patches as the image has room for."""
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    _write_qwen(folder, Qwen2VLConfig, {"embed_dim": 32, "hidden_size": 32}, {"rope_parameters": rope}, 14)


def write_qwen2_5_vl(folder: Path) -> None:
    """Qwen2.5-VL: the same with windows of attention in its vision tower."""
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "window_size": 56,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    _write_qwen(folder, Qwen2_5_VLConfig, vision, {"rope_parameters": rope}, 14)


def write_qwen3_vl(folder: Path) -> None:
    """Qwen3-VL: patches of 16 and features of several layers of its vision tower."""
    rope = {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "rope_theta": 10000.0,
    }
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    _write_qwen(folder, Qwen3VLConfig, vision, {"rope_parameters": rope, "head_dim": 8}, 16)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "florence2": write_florence2,
    "blip2": write_blip2,
    "blip2_t5": write_blip2_t5,
    "llava": write_llava,
    "llava_next": write_llava_next,
    "qwen2_vl": write_qwen2_vl,
    "qwen2_5_vl": write_qwen2_5_vl,
    "qwen3_vl": write_qwen3_vl,
}
