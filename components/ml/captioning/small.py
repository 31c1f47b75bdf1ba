"""A small captioner: convolutional encoder, cross-attention decoder, greedy decoding with a cache."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, cat, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from components.ml.text.plain_text import text_ids
from components.ml.vision.conv_stem import conv_stem, grid_side
from components.ml.vision.normalisation import CLIP, normalised

MLP_EXPANSION = 4
MODEL_TYPE = "conv_stem_captioner"
IGNORED = -100  # cross_entropy's default ignore_index
INIT_STD = 0.02  # of embeddings; the output layer shares the token embedding
# of cell positions: as large as the cells' features, else attention learns positions late
CELL_STD = 0.5


class Attention(nn.Module):
    """Multi-head attention in two steps, so that keys and values can be cached."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, (B, heads, T, width / heads) each, of states (B, T, width)."""
        key, value = self.key_value(states).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(self, states: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
        """Attend from states (B, T, width) to keys and values of `keys_values`."""
        mixed = F.scaled_dot_product_attention(self._split(self.query(states)), key, value, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Self-attention to the caption so far, cross-attention to the image, MLP; normalised before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention, self.cross_attention = Attention(width, heads), Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_EXPANSION * width), nn.GELU(), nn.Linear(MLP_EXPANSION * width, width)
        )

    def forward(
        self, states: Tensor, image: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return new states (B, T, width), and keys and values of the caption up to and with them.

        Args:
            states: (B, T, width); a whole caption, or one token if there is a past.
            image: The cross-attention's keys and values of the image.
            past: Keys and values of all earlier tokens, from the previous step.
        """
        normed = self.self_norm(states)
        key, value = self.self_attention.keys_values(normed)
        if past is not None:
            key, value = cat([past[0], key], dim=2), cat([past[1], value], dim=2)
        states = states + self.self_attention(normed, key, value, causal=past is None)
        states = states + self.cross_attention(self.cross_norm(states), *image)
        return states + self.mlp(self.mlp_norm(states)), (key, value)


@dataclass(frozen=True)
class SmallCaptionerConfig:
    """Shape of a captioner.

    `kinds` are the kinds of captions it can write, each with its own control token that starts the caption.
    `attributes` is the number of values of each attribute that the encoder predicts, only in training.
    """

    image_size: int  # pixels
    stem_channels: list[int]
    layers: int
    width: int
    heads: int
    max_tokens: int  # of a caption, its end included
    vocabulary_size: int
    end_id: int
    kinds: list[str]
    attributes: list[int]


class SmallCaptioner(nn.Module):
    """Captioner from pixels to captions of several kinds."""

    def __init__(self, config: SmallCaptionerConfig) -> None:
        super().__init__()
        self.config = config
        cells = grid_side(config.image_size, config.stem_channels) ** 2
        self.stem = conv_stem(config.stem_channels, config.width)
        self.cell_positions = nn.Parameter(CELL_STD * torch.randn(cells, config.width))
        self.image_norm = nn.LayerNorm(config.width)
        self.attribute_head = nn.Linear(cells * config.width, sum(config.attributes))
        self.tokens = nn.Embedding(config.vocabulary_size + len(config.kinds), config.width)
        self.positions = nn.Embedding(config.max_tokens, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=INIT_STD)

    def encode(self, images: Tensor) -> Tensor:
        """Return the image's cells (B, cells, width) of uint8 (B, 3, H, W)."""
        cells = self.stem(normalised(images, CLIP)).flatten(2).transpose(1, 2)  # (B, cells, width)
        return self.image_norm(cells + self.cell_positions)

    def attribute_logits(self, cells: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, values) of each attribute, from the encoder alone."""
        return self.attribute_head(cells.flatten(1)).split(self.config.attributes, dim=-1)

    def image_keys_values(self, cells: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each layer's keys and values of the image."""
        return [layer.get_submodule("cross_attention").keys_values(cells) for layer in self.layers]  # type: ignore[operator]

    def decode(
        self,
        ids: Tensor,
        image: list[tuple[Tensor, Tensor]],
        past: list[tuple[Tensor, Tensor]] | None = None,
        first: int = 0,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return logits (B, T, vocabulary) of the tokens that follow `ids` (B, T), and the new past.

        Args:
            ids: A whole caption from its control token on, or one token if there is a past.
            image: From `image_keys_values`.
            past: From the previous step.
            first: Number of tokens in the past.
        """
        states = self.tokens(ids) + self.positions.weight[first : first + ids.shape[1]]
        new_past = []
        for index, layer in enumerate(self.layers):
            states, keys_values = layer(states, image[index], None if past is None else past[index])
            new_past.append(keys_values)
        return self.norm(states) @ self.tokens.weight[: self.config.vocabulary_size].T, new_past

    def control_id(self, kind: str) -> int:
        """Return the control token that starts a caption of a kind."""
        return self.config.vocabulary_size + self.config.kinds.index(kind)


def caption_ids(captioner: SmallCaptioner, tokenizer: Any, texts: list[str], kind: str) -> Tensor:  # noqa: ANN401
    """Return captions as tokens (B, T): control token, text, end; `IGNORED` after it. Long ones are cut."""
    room = captioner.config.max_tokens - 1
    rows = text_ids(tokenizer, texts, room)
    ids = [[captioner.control_id(kind), *row, captioner.config.end_id] for row in rows]
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in ids], batch_first=True, padding_value=IGNORED
    )


def caption_loss(captioner: SmallCaptioner, cells: Tensor, ids: Tensor) -> Tensor:
    """Return the mean cross-entropy of a caption's tokens.

    Args:
        captioner: The model.
        cells: (B, cells, width), from `encode`.
        ids: (B, T), from `caption_ids`.
    """
    inputs = ids[:, :-1].masked_fill(ids[:, :-1] == IGNORED, captioner.config.end_id)
    logits, _ = captioner.decode(inputs, captioner.image_keys_values(cells))
    return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), ignore_index=IGNORED)


def attribute_loss(captioner: SmallCaptioner, cells: Tensor, values: Tensor) -> Tensor:
    """Return the mean cross-entropy over attributes, whose true values are (B, attributes)."""
    logits = captioner.attribute_logits(cells)
    losses = [F.cross_entropy(part.float(), values[:, index]) for index, part in enumerate(logits)]
    return torch.stack(losses).mean()


@torch.inference_mode()
def greedy(captioner: SmallCaptioner, images: Tensor, kind: str) -> list[list[int]]:
    """Decode greedily; return for each image uint8 (B, 3, H, W) the tokens without control token and end."""
    image = captioner.image_keys_values(captioner.encode(images))
    ids = torch.full((len(images), 1), captioner.control_id(kind), device=images.device)
    ended = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    past: list[tuple[Tensor, Tensor]] | None = None
    chosen: list[Tensor] = []
    for position in range(captioner.config.max_tokens):
        logits, past = captioner.decode(ids, image, past, first=position)
        ids = logits[:, -1:].argmax(-1)  # (B, 1)
        chosen.append(ids[:, 0])
        ended |= ids[:, 0] == captioner.config.end_id
        if ended.all():
            break
    end = captioner.config.end_id
    rows = torch.stack(chosen, dim=1).tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


def write_texts(captioner: SmallCaptioner, tokenizer: Any, images: Tensor, kind: str) -> list[str]:  # noqa: ANN401
    """Write a caption of a kind for each image uint8 (B, 3, H, W)."""
    texts: list[str] = tokenizer.batch_decode(greedy(captioner, images, kind), skip_special_tokens=True)
    return texts


def save_captioner(captioner: SmallCaptioner, tokenizer: Any, folder: Path) -> None:  # noqa: ANN401
    """Save weights, config and tokenizer."""
    tree = {"model_type": MODEL_TYPE, **asdict(captioner.config)}
    (folder / "config.json").write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")
    save_file(
        {name: tensor.contiguous() for name, tensor in captioner.state_dict().items()},
        folder / "model.safetensors",
    )
    tokenizer.save_pretrained(folder)


def load_captioner(folder: Path) -> tuple[SmallCaptioner, Any]:
    """Load what `save_captioner` saved, in evaluation mode: the captioner and its tokenizer.

    Raises:
        ValueError: the folder holds no such captioner, or weights of another shape.
    """
    path = folder / "config.json"
    tree = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if tree.pop("model_type", None) != MODEL_TYPE:
        raise ValueError(f"{folder} holds no {MODEL_TYPE}; expected one that base_models made")
    captioner = SmallCaptioner(SmallCaptionerConfig(**tree))
    try:
        captioner.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder} has other weights than its config says: {reason}") from None
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return captioner.eval(), tokenizer
