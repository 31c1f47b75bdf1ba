"""Text adapter: map an LLM's cached embedding of a caption to CLIP's embedding space."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
MIN_DEVIATION = 1e-6  # for a dimension that is constant over all captions


@dataclass(frozen=True)
class AdapterConfig:
    """Shape of a `TextAdapter`."""

    input_dim: int  # d, the LLM's width
    output_dim: int  # D, the width of the shared space
    blocks: int
    expansion: int
    dropout: float
    standardise: bool


class ResidualBlock(nn.Module):
    """x + Linear(Dropout(GELU(Linear(LayerNorm(x)))))."""

    def __init__(self, dim: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, expansion * dim)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(expansion * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, d) to (B, d)."""
        out: Tensor = x + self.down(self.dropout(F.gelu(self.up(self.norm(x)))))
        return out


class TextAdapter(nn.Module):
    """The residual-MLP adapter of LLM2CLIP (arXiv 2411.04997, section 3; docs/method.md, 3).

    Rows are first scaled to length 1. With `standardise` each dimension is then centred and scaled by the
    statistics of the training captions (`fit_statistics`), which are saved as buffers: the mean of an LLM's
    embeddings is far from zero and dominates the cosine between them.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.input_dim))
        self.register_buffer("deviation", torch.ones(config.input_dim))
        self.blocks = nn.ModuleList(
            ResidualBlock(config.input_dim, config.expansion, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.input_dim)
        self.projection = nn.Linear(config.input_dim, config.output_dim)

    def forward(self, embeddings_raw: Tensor) -> Tensor:
        """Map an LLM's embeddings (B, d) of any length to text embeddings (B, D) of length 1."""
        x = F.normalize(embeddings_raw.float(), dim=-1)
        if self.config.standardise:
            x = (x - self.mean) / self.deviation
        for block in self.blocks:
            x = block(x)
        return F.normalize(self.projection(self.norm(x)).float(), dim=-1)

    @torch.no_grad()
    def fit_statistics(self, parts: Iterable[Tensor]) -> None:
        """Set mean and standard deviation per dimension from the unit rows of parts (m, d), (n, d), ...

        Only one part is in memory at a time. Parts are combined as in Chan, Golub and LeVeque 1979, "Updating
        formulae and a pairwise algorithm for computing sample variances".
        """
        count, mean = 0, torch.zeros(1)
        squares = torch.zeros(1)  # the sum of squared distances from the mean
        for part in parts:
            rows = F.normalize(part.double(), dim=-1)
            part_mean = rows.mean(dim=0)
            share = len(rows) / (count + len(rows))
            squares = (
                squares + (rows - part_mean).square().sum(dim=0) + (part_mean - mean) ** 2 * count * share
            )
            mean = mean + (part_mean - mean) * share
            count += len(rows)
        self.mean.copy_(mean)
        self.deviation.copy_((squares / count).sqrt().clamp(min=MIN_DEVIATION))


def save_adapter(adapter: TextAdapter, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`; the bytes depend on the adapter alone."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(asdict(adapter.config), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(f"{config}\n", "utf-8")
    save_file({name: value.contiguous() for name, value in adapter.state_dict().items()}, folder / WEIGHTS)


def load_adapter(folder: Path) -> TextAdapter:
    """Load an adapter, ready for evaluation.

    Raises:
        ValueError: the folder holds no adapter, or its weights do not fit its config.
    """
    try:
        adapter = TextAdapter(AdapterConfig(**json.loads((folder / CONFIG).read_text("utf-8"))))
        adapter.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{folder} holds no text adapter ({str(error).splitlines()[0]}); expected {CONFIG} and {WEIGHTS} "
            "as train_clip writes them"
        ) from error
    return adapter.eval()
