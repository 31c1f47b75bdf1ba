"""Decoder layers with cross-attention to an image and a key-value cache."""

from __future__ import annotations

from torch import Tensor, cat, nn
from torch.nn import functional as F

MLP_EXPANSION = 4


class Attention(nn.Module):
    """Multi-head attention in two halves, so that keys and values can be kept."""

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
        """Attend from states (B, T, width) to what `keys_values` gave."""
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
            states: (B, T, width); a whole caption, or one token where there is a past.
            image: The cross-attention's keys and values of the image.
            past: Keys and values of all tokens before, as the step before returned them.
        """
        normed = self.self_norm(states)
        key, value = self.self_attention.keys_values(normed)
        if past is not None:
            key, value = cat([past[0], key], dim=2), cat([past[1], value], dim=2)
        states = states + self.self_attention(normed, key, value, causal=past is None)
        states = states + self.cross_attention(self.cross_norm(states), *image)
        return states + self.mlp(self.mlp_norm(states)), (key, value)
