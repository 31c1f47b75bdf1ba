from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from components.ml.adapter import AdapterConfig, TextAdapter, load_adapter, save_adapter

CONFIG = AdapterConfig(input_dim=6, output_dim=4, blocks=2, expansion=2, dropout=0.5, standardise=False)


def _adapter(config: AdapterConfig = CONFIG) -> TextAdapter:
    torch.manual_seed(0)
    return TextAdapter(config).eval()


def test_rows_have_length_one_and_the_scale_of_the_input_is_nothing() -> None:
    adapter, embeddings = _adapter(), torch.randn(5, 6)
    out = adapter(embeddings)
    assert out.shape == (5, 4)
    assert torch.allclose(out.norm(dim=1), torch.ones(5))
    assert torch.allclose(adapter(embeddings * 100), out, atol=1e-6)


def test_without_blocks_it_is_norm_and_projection() -> None:
    adapter, embeddings = _adapter(replace(CONFIG, blocks=0)), torch.randn(3, 6)
    expected = F.normalize(
        F.layer_norm(F.normalize(embeddings, dim=1), (6,)) @ adapter.projection.weight.T
        + adapter.projection.bias,
        dim=1,
    )
    assert torch.allclose(adapter(embeddings), expected, atol=1e-6)


def test_a_block_that_adds_nothing_is_the_identity() -> None:
    adapter = _adapter()
    for block in adapter.blocks:
        torch.nn.init.zeros_(block.down.weight)  # type: ignore[union-attr,arg-type]
        torch.nn.init.zeros_(block.down.bias)  # type: ignore[union-attr,arg-type]
    bare = _adapter(replace(CONFIG, blocks=0))
    bare.load_state_dict(
        {name: value for name, value in adapter.state_dict().items() if "blocks" not in name}
    )
    embeddings = torch.randn(3, 6)
    assert torch.allclose(adapter(embeddings), bare(embeddings), atol=1e-6)


def test_parameters_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        adapter = TextAdapter(AdapterConfig(2048, 1280, 4, 2, 0.0, False))
    blocks = sum(p.numel() for p in adapter.blocks.parameters())
    assert round(blocks / 1e6, 1) == 67.1  # as arXiv 2411.04997 v6 prints it
    assert round(sum(p.numel() for p in adapter.parameters()) / 1e6, 1) == 69.8


def test_dropout_works_in_training_only() -> None:
    adapter, embeddings = _adapter(), torch.randn(3, 6)
    assert torch.equal(adapter(embeddings), adapter(embeddings))
    adapter.train()
    assert not torch.equal(adapter(embeddings), adapter(embeddings))


def test_statistics_centre_and_scale_the_unit_rows() -> None:
    adapter = _adapter(replace(CONFIG, standardise=True))
    captions = torch.randn(200, 6) + 5
    adapter.fit_statistics(captions.split(64))
    rows = (F.normalize(captions, dim=1) - adapter.mean) / adapter.deviation
    assert torch.allclose(rows.mean(dim=0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(rows.std(dim=0, correction=0), torch.ones(6), atol=1e-4)


def test_statistics_are_those_of_all_parts_together() -> None:
    captions = torch.randn(30, 6) + torch.arange(6)
    unit = F.normalize(captions.double(), dim=1)
    for sizes in ([30], [1, 29], [7, 7, 7, 7, 2]):
        adapter = _adapter(replace(CONFIG, standardise=True))
        adapter.fit_statistics(captions.split(sizes))
        torch.testing.assert_close(adapter.mean, unit.mean(dim=0).float())
        torch.testing.assert_close(adapter.deviation, unit.std(dim=0, correction=0).float())


def test_a_constant_dimension_stays_finite() -> None:
    adapter = _adapter(replace(CONFIG, standardise=True))
    adapter.fit_statistics([torch.ones(4, 6)])
    assert adapter(torch.ones(2, 6)).isfinite().all()


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    adapter = _adapter(replace(CONFIG, standardise=True))
    adapter.fit_statistics([torch.randn(9, 6)])
    save_adapter(adapter, tmp_path / "a")
    save_adapter(adapter, tmp_path / "b")
    loaded, embeddings = load_adapter(tmp_path / "a"), torch.randn(3, 6)
    assert torch.equal(loaded(embeddings), adapter(embeddings))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text adapter"):
        load_adapter(tmp_path)
    save_adapter(_adapter(), tmp_path)
    (tmp_path / "config.json").write_text('{"input_dim": 6}')
    with pytest.raises(ValueError, match="no text adapter"):
        load_adapter(tmp_path)
