"""What the model card says of a vision tower alone is true for each family."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from components.ml.vision.towers import save_vision_encoder, vision_encoder_of
from components.register.card import vision_text
from components.storage.atomic import read_json
from tests.ml.towers import tiny_model, tiny_tokenizer


@pytest.mark.parametrize(
    ("family", "width", "is_plain"),
    [
        ("clip_b16", None, True),
        ("clip_l14", 12, True),
        ("siglip", None, True),
        ("siglip2", 12, False),
        ("eva02_b16", None, False),
    ],
)
def test_plain_transformers_loads_what_the_card_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, width: int | None, is_plain: bool
) -> None:
    encoder = vision_encoder_of(tiny_model(family, tiny_tokenizer()), width)
    save_vision_encoder(encoder, tmp_path / "vision_encoder")
    monkeypatch.chdir(tmp_path)
    text = vision_text(tmp_path)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert (code is not None) == is_plain
    if code is None:
        assert "which plain transformers refuses to load" in text
        assert (
            read_json(tmp_path / "vision_encoder" / "config.json")["model_type"] not in CONFIG_MAPPING_NAMES
        )
        return
    names: dict[str, Any] = {}
    exec(code[1], names)  # noqa: S102 - the code that the card tells people to run
    loaded = names["vision_encoder"].state_dict()
    assert all(bool((loaded[name] == value).all()) for name, value in encoder.state_dict().items())
    assert list(names["processor"].image_mean)[0] == (0.5 if family == "siglip" else 0.48145466)
