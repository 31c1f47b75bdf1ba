"""Throughput of recaption's captioners and base CLIP, at their true sizes, on one device.

    python -m bench.captioners [--device cuda] [--threads 8] [--only llava_7b florence2_large clip_b16 ...]

Models are made on the spot with random weights, which cost as much as trained ones. Their captions never end
early, so each has the maximum number of tokens: a trained model is as fast or faster. Images are random. All
runs as in recaption: threads decode and prepare images, captions are written in batches, in bf16. It also
prints the CPU time that one thread takes to prepare an image.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    BartConfig,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    Florence2Config,
    LlamaConfig,
    LlavaConfig,
    PreTrainedTokenizerFast,
)

from bench.measuring import say
from components.ml.captioning.generate import Batches, Question, answers
from components.ml.captioning.vlm import VisionLanguage, load_processor, model_inputs, question_text
from components.ml.text.bpe import SPECIAL_TOKENS, train_bpe
from components.ml.vision.clip import save_clip
from components.ml.vision.pictures import decode_rgb
from components.ml.vision.pixels import decode_images
from components.recaption.captioners.vision_language import THREADS
from components.recaption.scores.base_clip import BaseClip
from components.running.workers import usable_cores
from components.settings.recaption import Scores
from components.storage.manifest import write_manifest

PAD, _, BOS, EOS = range(len(SPECIAL_TOKENS))
PROMPT = "describe the image in one sentence"
NEW_TOKENS = 64
SIDE = 256  # pixels of an image, as download keeps it
CAPTIONS_BATCHES = 4  # batches written for each figure
CLIP_BATCH, CLIP_BATCHES = 256, 8
CHAT = "{% for message in messages %}USER: <image>\n{{ message.content[1].text }} ASSISTANT:{% endfor %}"
CLIP_IMAGES = {
    "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 336}, "do_resize": True,
    "crop_size": {"height": 336, "width": 336}, "do_center_crop": True, "do_rescale": True, "resample": 3,
    "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_convert_rgb": True,
}  # fmt: skip
FLORENCE_IMAGES = {
    **CLIP_IMAGES, "size": {"height": 768, "width": 768}, "do_center_crop": False, "image_seq_length": 577,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=min(usable_cores(), THREADS))
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=MODELS)
    options = parser.parse_args(arguments)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "this CPU"
    say(f"on {name}, torch {torch.__version__}, {options.threads} threads, {NEW_TOKENS} tokens a caption")
    for model in options.only:
        MODELS[model](model, options.device, options.threads)


def _llava(tokenizer: PreTrainedTokenizerFast) -> Any:  # noqa: ANN401 - a config
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14, projection_dim=768,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=32064, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    token = tokenizer.convert_tokens_to_ids("<image>")
    return LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=token,
        image_seq_length=576,
    )


def _florence(tokenizer: PreTrainedTokenizerFast) -> Any:  # noqa: ANN401 - a config
    text = BartConfig(
        d_model=1024, encoder_layers=12, decoder_layers=12, encoder_attention_heads=16,
        decoder_attention_heads=16, encoder_ffn_dim=4096, decoder_ffn_dim=4096, vocab_size=51289,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, decoder_start_token_id=EOS,
        forced_eos_token_id=None,
    )  # fmt: skip
    vision = {
        "depths": [1, 1, 9, 1], "patch_size": [7, 3, 3, 3], "patch_stride": [4, 2, 2, 2],
        "patch_padding": [3, 1, 1, 1], "patch_prenorm": [False, True, True, True],
        "embed_dim": [256, 512, 1024, 2048], "num_heads": [8, 16, 32, 64], "num_groups": [8, 16, 32, 64],
        "window_size": 12, "projection_dim": 1024, "drop_path_rate": 0.0,
    }  # fmt: skip
    return Florence2Config(
        text_config=text.to_dict(), vision_config=vision, pad_token_id=PAD, bos_token_id=BOS,
        eos_token_id=EOS, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip


def _captioner(
    config_of: Callable[[PreTrainedTokenizerFast], Any], images: dict[str, Any], processor: dict[str, Any],
    name: str, device: str, threads: int,
) -> None:  # fmt: skip
    tokenizer = _tokenizer()
    config = config_of(tokenizer)
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
        (folder / "processor_config.json").write_text(json.dumps(processor))
        if "patch_size" in processor:
            (folder / "chat_template.jinja").write_text(CHAT)
        loaded = load_processor(folder)
    torch.manual_seed(5)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).eval()
    model.generation_config.update(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, num_beams=1,
        forced_eos_token_id=None,
    )  # fmt: skip
    captioner = VisionLanguage(model, loaded)
    weights = sum(weight.numel() for weight in model.parameters())
    pictures = drawn(16)
    text = question_text(captioner, PROMPT)
    start_seconds = time.process_time()
    tokens = max(
        model_inputs(captioner, decode_rgb(picture), text)["input_ids"].shape[1] for picture in pictures
    )
    prepared = 1000 * (time.process_time() - start_seconds) / len(pictures)
    say(f"{name}: {weights:,} weights, {tokens} tokens of image and prompt, {prepared:.1f} CPU ms to prepare")
    budgets = (4096, 16384, 65536) if device == "cuda" else (4096,)
    for budget in budgets:
        rows = max(1, budget // (tokens + NEW_TOKENS))
        list(answers(captioner, _questions(pictures, rows), Batches(budget, threads), 0.0))  # warm
        count = CAPTIONS_BATCHES * rows if device == "cuda" else rows
        start_seconds = time.monotonic()
        captions = dict(answers(captioner, _questions(pictures, count), Batches(budget, threads), 0.0))
        seconds = time.monotonic() - start_seconds
        cut = sum(answer.is_cut for answer in captions.values())
        memory = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if device == "cuda" else ""
        speed = f"{count / seconds:.2f} captions a second"
        say(f"  {rows} a batch: {speed}, {cut} of {count} have all tokens{memory}")


def _questions(pictures: list[bytes], count: int) -> list[Question]:
    return [Question(pictures[n % len(pictures)], PROMPT, NEW_TOKENS, n) for n in range(count)]


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = train_bpe([PROMPT, "a red circle on a white beach"], 120, 256)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        extra_special_tokens={"image_token": "<image>"},
        **dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=True)),
    )


def _clip(vision: dict[str, int], name: str, device: str, threads: int) -> None:
    tokenizer = _tokenizer()
    text_config = {
        "vocab_size": len(tokenizer),
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    config = CLIPConfig(vision_config=vision, text_config=text_config, projection_dim=512)
    jpegs = drawn(CLIP_BATCHES * CLIP_BATCH if device == "cuda" else 32)
    start_seconds = time.process_time()
    decode_images(jpegs[:32], vision["image_size"])
    say(f"{name}: {1000 * (time.process_time() - start_seconds) / 32:.2f} CPU ms to decode an image")
    reference: torch.Tensor | None = None
    with tempfile.TemporaryDirectory() as folder_name:
        torch.manual_seed(5)
        save_clip(CLIPModel(config), Path(folder_name) / "clip")
        tokenizer.save_pretrained(Path(folder_name) / "clip")
        write_manifest(Path(folder_name))
        for precision in ("fp32", "bf16"):
            section = Scores(columns=None, batch_size=CLIP_BATCH, precision=precision)
            clip = BaseClip(Path(folder_name), section, device, threads)
            clip.embed_images(jpegs[:32], lambda _: None)  # loads it
            start_seconds = time.monotonic()
            embeddings = clip.embed_images(jpegs, lambda _: None)
            seconds = time.monotonic() - start_seconds
            reference = embeddings if reference is None else reference
            far = 1 - torch.nn.functional.cosine_similarity(embeddings, reference).min().item()
            say(f"  {precision}: {len(jpegs) / seconds:.1f} images a second, cosine to fp32 1 - {far:.1e}")


def drawn(count: int) -> list[bytes]:
    """Return random JPEGs: soft colours with grain."""
    draw = np.random.default_rng(7)
    jpegs = []
    for _ in range(count):
        colours = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        soft = np.asarray(colours.resize((SIDE, 3 * SIDE // 4), Image.Resampling.BICUBIC))
        pixels = np.clip(soft + draw.normal(0, 8, soft.shape), 0, 255).astype(np.uint8)
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95)
        jpegs.append(file.getvalue())
    return jpegs


LLAVA_PROCESSOR = {
    "processor_class": "LlavaProcessor", "patch_size": 14, "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}  # fmt: skip
B16 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
L14 = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
MODELS: dict[str, Callable[[str, str, int], None]] = {
    "llava_7b": partial(_captioner, _llava, CLIP_IMAGES, LLAVA_PROCESSOR),
    "florence2_large": partial(
        _captioner, _florence, FLORENCE_IMAGES, {"processor_class": "Florence2Processor"}
    ),
    "clip_b16": partial(_clip, {**B16, "image_size": 224, "patch_size": 16}),
    "clip_l14_336": partial(_clip, {**L14, "image_size": 336, "patch_size": 14}),
}


if __name__ == "__main__":
    main()
