"""A batch that changes what a model says of one text is found out, by the true cosine between the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.embed_captions.embedding import Embedder
from components.embed_captions.encoder import Encoded, Progress
from components.embed_captions.sources import TextFile
from components.errors import DataError
from components.settings.params import Params
from components.storage.atomic import read_json
from components.storage.embeddings import EMBEDDED_CAPTIONS
from components.storage.side_tables import Caption

TEXTS = ["a red circle", "two dogs", "a cat on a mat", "blue squares", "a horse"]
WIDTH = len(TEXTS) + 1
# two sides of right triangles, at the angle and across from it; their third sides are whole numbers
TOO_FAR = (1599.0, 80.0)  # over 1601: cosine 0.998751
NEAR = (2499.0, 100.0)  # over 2501: cosine 0.999200
NEARER = (3599.0, 120.0)  # over 3601: cosine 0.999445


class Turning:
    """An encoder whose vectors of a batch stand at right angles; alone, some texts have another one."""

    name = "turning"
    made_by: str | None = "llm"
    dimension = WIDTH

    def __init__(self, turned: dict[str, tuple[float, float]]) -> None:
        self.about: dict[str, Any] = {"llm": "turning"}
        self.turned = turned
        self.alone: list[str] = []

    def encode(self, texts: list[str], progress: Progress) -> Encoded:
        progress(len(texts))
        vectors = 2 * torch.eye(WIDTH)[[TEXTS.index(text) for text in texts]]
        return Encoded(vectors, [3] * len(texts), [False] * len(texts))

    def encode_alone(self, texts: list[str]) -> Tensor:
        self.alone += texts
        vectors = torch.zeros(len(texts), WIDTH)
        for vector, text in zip(vectors, texts, strict=True):
            vector[TEXTS.index(text)], vector[-1] = self.turned.get(text, (1.0, 0.0))
        return vectors

    def tokens_of(self, texts: list[str]) -> int | None:
        return 3 * len(texts)

    def model_bytes(self) -> int:
        return 0

    def release(self) -> None:
        pass


def file_of(texts: list[str]) -> TextFile:
    lines = [Caption(f"key{n}", "train", "dense", "en", 0, text, "nobody") for n, text in enumerate(texts)]
    return TextFile("dense", "00000", EMBEDDED_CAPTIONS, lines)


def embedder_of(encoder: Turning, smoke: Params, store: Path, **changes: Any) -> Embedder:
    own = smoke.embed_captions.model_copy(update={"min_recheck_cosine": 0.999, **changes})
    return Embedder(encoder, own, smoke.seed, store, None, lambda _: None)


def figures_of(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / "00000.json"))


@pytest.mark.parametrize("odd", TEXTS)
def test_one_text_that_its_batch_changes_leaves_no_finished_piece(
    smoke: Params, tmp_path: Path, odd: str
) -> None:
    embedder = embedder_of(Turning({odd: TOO_FAR}), smoke, tmp_path)
    file = file_of(TEXTS)
    for _ in range(2):  # the next run does not take what this one left for done
        with pytest.raises(DataError, match=r"^dense 00000: .* cosine 0\.998751 .* asks for 0\.999:"):
            embedder.made(file)
        assert not embedder.is_there(file)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_figure_is_the_smallest_cosine(smoke: Params, tmp_path: Path) -> None:
    encoder = Turning({TEXTS[1]: NEARER, TEXTS[3]: NEAR, TEXTS[4]: NEARER})
    embedder = embedder_of(encoder, smoke, tmp_path)
    file = file_of(TEXTS)
    found = figures_of(embedder.made(file))["recheck_min_cosine"]
    assert embedder.is_there(file)
    assert found == pytest.approx(2499 / 2501, abs=1e-6)
    assert sorted(encoder.alone) == sorted(TEXTS)


@pytest.mark.parametrize("rows", [3, 1, 0])
def test_as_many_texts_are_encoded_again_as_params_ask_for(smoke: Params, tmp_path: Path, rows: int) -> None:
    encoder = Turning({})
    folder = embedder_of(encoder, smoke, tmp_path, recheck_rows=rows).made(file_of(TEXTS))
    assert len(encoder.alone) == len(set(encoder.alone)) == rows
    assert figures_of(folder)["recheck_min_cosine"] == (pytest.approx(1.0, abs=1e-6) if rows else None)


def test_vectors_taken_from_an_earlier_piece_are_checked_with_the_new_ones(
    smoke: Params, tmp_path: Path
) -> None:
    encoder = Turning({})
    embedder = embedder_of(encoder, smoke, tmp_path)
    embedder.made(file_of(TEXTS[:-1]))
    encoder.turned = {TEXTS[0]: TOO_FAR}  # what is stored is no longer what the model says
    with pytest.raises(DataError, match=r"cosine 0\.998751"):
        embedder.made(file_of(TEXTS))
    assert embedder.is_there(file_of(TEXTS[:-1]))
    assert not embedder.is_there(file_of(TEXTS))
