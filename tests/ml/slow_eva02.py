"""EVA02 CLIP once more, slow and by itself, on the names of EVA-CLIP; and a checkpoint in its layout."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.ml.towers import TINY, Size, eva_clip_shapes, text_shapes

GRID = 3  # of the tiny model's rotary positions; its own grid has 4 cells a side
EVA_CONFIG = {
    "vision_cfg": {"head_width": TINY.width // TINY.heads, "pt_hw_seq_len": GRID},
    "text_cfg": {"heads": 3},
}
TIMM_CONFIG = {
    "architecture": "eva02_tiny",
    "model_args": {"num_heads": TINY.heads, "ref_feat_shape": [GRID, GRID]},
    "text_cfg": {"heads": 3},
}


def angle(size: Size, row: int, column: int, place: int) -> float:
    """Return by how much a number of a head, with its neighbour, turns at a patch; rope.py of EVA-CLIP."""
    half = size.width // size.heads // 2
    side = size.image // size.patch
    cell = row if place < half else column
    frequency = 10000 ** -(((place % half) // 2) * 2 / half)
    return cell / side * GRID * frequency


def rope_tables(size: Size) -> dict[str, Tensor]:
    side, head = size.image // size.patch, size.width // size.heads
    angles = torch.tensor(
        [
            [angle(size, row, column, place) for place in range(head)]
            for row in range(side)
            for column in range(side)
        ]
    )
    return {"freqs_cos": angles.cos(), "freqs_sin": angles.sin()}


def eva_checkpoint(size: Size, with_text: bool = True) -> dict[str, Tensor]:
    """Return random weights in EVA-CLIP's layout, its tables of angles right."""
    generator = torch.Generator().manual_seed(3)
    shapes = [*eva_clip_shapes(size), *(text_shapes(size) if with_text else ())]
    tensors = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes}
    tables = rope_tables(size)
    return {name: tables.get(name.rpartition(".")[2], tensor) for name, tensor in tensors.items()}


def write(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], name: str = "config.json"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: tensor.contiguous().clone() for key, tensor in tensors.items()}, folder / "weights.safetensors"
    )
    (folder / name).write_text(json.dumps(config))
    return folder


def linear(weight: Tensor, bias: Tensor | None, row: Tensor) -> Tensor:
    out = torch.stack([torch.stack([w * x for w, x in zip(one, row, strict=True)]).sum() for one in weight])
    return out if bias is None else out + bias


def norm(tensors: dict[str, Tensor], name: str, row: Tensor) -> Tensor:
    mean = sum(row) / len(row)
    deviation = (sum((row - mean) ** 2) / len(row) + 1e-6) ** 0.5
    return (row - mean) / deviation * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def turned(head: Tensor, size: Size, patch: int) -> Tensor:
    """Turn a query or key of one patch, pair by pair."""
    side = size.image // size.patch
    out = head.clone()
    for place in range(0, len(head), 2):
        by = angle(size, patch // side, patch % side, place)
        out[place] = head[place] * math.cos(by) - head[place + 1] * math.sin(by)
        out[place + 1] = head[place + 1] * math.cos(by) + head[place] * math.sin(by)
    return out


def slow_attention(tensors: dict[str, Tensor], block: str, rows: list[Tensor], size: Size) -> list[Tensor]:
    head = size.width // size.heads
    queries = [linear(tensors[f"{block}q_proj.weight"], tensors[f"{block}q_bias"], row) for row in rows]
    keys = [linear(tensors[f"{block}k_proj.weight"], None, row) for row in rows]
    values = [linear(tensors[f"{block}v_proj.weight"], tensors[f"{block}v_bias"], row) for row in rows]
    mixed = []
    for token in range(len(rows)):
        parts = []
        for number in range(size.heads):
            cut = slice(number * head, (number + 1) * head)
            query = queries[token][cut] if token == 0 else turned(queries[token][cut], size, token - 1)
            scores = []
            for other in range(len(rows)):
                key = keys[other][cut] if other == 0 else turned(keys[other][cut], size, other - 1)
                scores.append(float(query @ key) / math.sqrt(head))
            weights = torch.tensor([math.exp(score - max(scores)) for score in scores])
            weights = weights / weights.sum()
            parts.append(sum(weights[other] * values[other][cut] for other in range(len(rows))))
        mixed.append(torch.cat(parts))  # type: ignore[arg-type]
    inner = [norm(tensors, f"{block}inner_attn_ln", row) for row in mixed]
    return [linear(tensors[f"{block}proj.weight"], tensors[f"{block}proj.bias"], row) for row in inner]


def slow_feed_forward(tensors: dict[str, Tensor], block: str, row: Tensor) -> Tensor:
    one = linear(tensors[f"{block}w1.weight"], tensors[f"{block}w1.bias"], row)
    two = linear(tensors[f"{block}w2.weight"], tensors[f"{block}w2.bias"], row)
    hidden = torch.tensor(
        [float(a) / (1 + math.exp(-float(a))) * float(b) for a, b in zip(one, two, strict=True)]
    )
    return linear(
        tensors[f"{block}w3.weight"], tensors[f"{block}w3.bias"], norm(tensors, f"{block}ffn_ln", hidden)
    )


def slow_embedding(tensors: dict[str, Tensor], picture: Tensor, size: Size) -> Tensor:
    """Return the un-normalised embedding (D,) of normalised pixels (3, H, W), one token at a time."""
    tower = {
        name.removeprefix("visual."): tensor for name, tensor in tensors.items() if name.startswith("visual.")
    }
    side, patch = size.image // size.patch, size.patch
    rows = [tower["cls_token"][0, 0]]
    for row in range(side):
        for column in range(side):
            pixels = picture[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            weights = tower["patch_embed.proj.weight"]
            rows.append((weights * pixels).sum(dim=(1, 2, 3)) + tower["patch_embed.proj.bias"])
    rows = [row + tower["pos_embed"][0, number] for number, row in enumerate(rows)]
    for number in range(size.layers):
        block = f"blocks.{number}."
        mixed = slow_attention(
            tower, f"{block}attn.", [norm(tower, f"{block}norm1", row) for row in rows], size
        )
        rows = [row + change for row, change in zip(rows, mixed, strict=True)]
        rows = [
            row + slow_feed_forward(tower, f"{block}mlp.", norm(tower, f"{block}norm2", row)) for row in rows
        ]
    return linear(tower["head.weight"], tower["head.bias"], norm(tower, "norm", rows[0]))


def slow_text(tensors: dict[str, Tensor], ids: list[int], size: Size, heads: int) -> Tensor:
    """Return the un-normalised embedding (D,) of a text, at its highest token, as TextTransformer does."""
    tower = {
        name.removeprefix("text."): tensor for name, tensor in tensors.items() if name.startswith("text.")
    }
    head = size.text_width // heads
    rows = tower["token_embedding.weight"][ids] + tower["positional_embedding"][: len(ids)]

    def normed(name: str, states: Tensor) -> Tensor:
        centred = states - states.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * tower[f"{name}.weight"] + tower[f"{name}.bias"]

    for number in range(size.text_layers):
        block = f"transformer.resblocks.{number}."
        joint = normed(f"{block}ln_1", rows) @ tower[f"{block}attn.in_proj_weight"].T
        query, key, value = (joint + tower[f"{block}attn.in_proj_bias"]).split(size.text_width, dim=1)
        mixed = torch.zeros_like(rows)
        for one in range(heads):
            cut = slice(one * head, (one + 1) * head)
            for token in range(len(ids)):
                weights = (key[: token + 1, cut] @ query[token, cut] / math.sqrt(head)).softmax(0)
                mixed[token, cut] = weights @ value[: token + 1, cut]
        rows = rows + mixed @ tower[f"{block}attn.out_proj.weight"].T + tower[f"{block}attn.out_proj.bias"]
        hidden = (
            normed(f"{block}ln_2", rows) @ tower[f"{block}mlp.c_fc.weight"].T + tower[f"{block}mlp.c_fc.bias"]
        )
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        rows = rows + hidden @ tower[f"{block}mlp.c_proj.weight"].T + tower[f"{block}mlp.c_proj.bias"]
    return normed("ln_final", rows)[ids.index(max(ids))] @ tower["text_projection"]
