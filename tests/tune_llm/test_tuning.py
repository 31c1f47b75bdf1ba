"""One step: chunks change no gradient, LoRA leaves the rest alone, embeddings have a rate of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.ml.llm import TextEncoder, load_text_encoder
from components.settings.params import Params
from components.settings.tune_llm import CaptionRetrieval, TuneLlm
from components.tune_llm.caption_retrieval import captions_of, recall_at_1, tfidf_recalls
from components.tune_llm.caption_rows import CaptionRow
from components.tune_llm.tuning import open_weights, pair_loss, parameter_groups
from tests.captioned import write_llm

FIRST = ["a red circle", "two dogs play in the snow", "a cat", "a red circle", "blue squares everywhere"]
SECOND = ["one circle that is red", "dogs", "a cat on a mat with a hat", "Circle, red", "squares, blue ones"]


@pytest.fixture
def own(smoke: Params) -> TuneLlm:
    return smoke.tune_llm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm")
    write_llm(path, FIRST + SECOND)
    return path


def load(folder: Path, query_prompt: str = "") -> TextEncoder:
    return load_text_encoder(
        folder,
        attention="bidirectional",
        pooling="mean",
        template="{text}",
        max_tokens=64,
        query_prompt=query_prompt,
    )


def gradients(encoder: TextEncoder, params: TuneLlm) -> dict[str, Tensor]:
    encoder.model.requires_grad_(True)
    encoder.model.zero_grad()
    pair_loss(encoder, params, FIRST, SECOND).backward()
    return {name: weight.grad for name, weight in encoder.model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("chunks", [2, 3, 99])
def test_chunks_change_no_gradient(folder: Path, own: TuneLlm, chunks: int) -> None:
    encoder = load(folder, "find: ")
    whole = {name: tensor.clone() for name, tensor in gradients(encoder, own).items()}
    chunked = gradients(encoder, own.model_copy(update={"chunks": chunks}))
    assert whole.keys() == chunked.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(chunked[name], tensor, rtol=1e-3, atol=1e-5)


def test_equal_captions_are_no_negatives_whatever_their_case(folder: Path, own: TuneLlm) -> None:
    encoder = load(folder)
    first, second = ["a red circle", "a cat"], ["red circle", "A  CAT"]
    apart = pair_loss(encoder, own, first, second)
    # the same pair twice: were its copy a negative, the loss would grow by about log 2 for those rows
    doubled = pair_loss(encoder, own, [*first, "A RED circle"], [*second, "red circle"])
    own_share = pair_loss(encoder, own, ["a red circle", "A RED circle"], ["red circle", "red circle"])
    assert own_share.item() == pytest.approx(0, abs=1e-6)
    assert doubled.item() < apart.item() + 0.5


def test_lora_learns_its_own_weights_only(folder: Path, own: TuneLlm) -> None:
    encoder = load(folder)
    assert open_weights(encoder, own, seed=1) is not None
    learning = [name for name, weight in encoder.model.named_parameters() if weight.requires_grad]
    assert learning
    assert all("lora_" in name for name in learning)
    (group,) = parameter_groups(encoder.model, own, own.phases[0])
    assert group["peak"] == own.phases[0].learning_rate


def test_full_tuning_gives_embeddings_a_rate_of_their_own(folder: Path, own: TuneLlm) -> None:
    encoder = load(folder)
    full = own.model_copy(update={"method": "full", "embedding_rate_factor": 3.0})
    assert open_weights(encoder, full, seed=1) is None
    rest, embeddings = parameter_groups(encoder.model, full, full.phases[0])
    assert embeddings["peak"] == pytest.approx(3 * rest["peak"])
    assert [weight.shape for weight in embeddings["params"]] == [encoder.model.embed_tokens.weight.shape]  # type: ignore[union-attr]
    learning = sum(1 for weight in encoder.model.parameters() if weight.requires_grad)
    assert len(rest["params"]) == learning - 1


def test_lora_without_its_section_is_refused(own: TuneLlm) -> None:
    tree: dict[str, Any] = own.model_dump()
    with pytest.raises(ValueError, match="lora is null"):
        TuneLlm.model_validate({**tree, "lora": None})


def test_recall_counts_the_first_place_and_takes_equal_texts_as_one() -> None:
    vectors = {"q0": [1.0, 0.0], "q1": [0.0, 1.0], "q2": [1.0, 0.1], "x": [1.0, 0.0], "y": [0.9, 1.0]}

    def encode(texts: list[str]) -> Tensor:
        return torch.tensor([vectors[text] for text in texts])

    assert recall_at_1(["q0", "q1"], ["x", "y"], encode) == 1.0
    assert recall_at_1(["q0", "q1"], ["y", "x"], encode) == 0.0
    assert recall_at_1(["q0", "q1", "q2"], ["x", "y", "x"], encode) == 1.0


def test_a_column_with_itself_uses_two_captions() -> None:
    rows = [CaptionRow(str(number), {"en": [f"a{number}", f"b{number}", "c"]}) for number in range(3)]
    rows.append(CaptionRow("short", {"en": ["alone"]}))
    task = CaptionRetrieval(name="english", first="en", second="en")
    assert captions_of(task, rows) == (["a0", "a1", "a2"], ["b0", "b1", "b2"])


def test_tfidf_finds_shared_words() -> None:
    rows = [
        CaptionRow("0", {"short": ["a red circle"], "dense": ["the circle in the corner is red"]}),
        CaptionRow("1", {"short": ["a blue square"], "dense": ["this square, which is blue"]}),
    ]
    task = CaptionRetrieval(name="short_to_dense", first="short", second="dense")
    assert tfidf_recalls([task], rows) == {"short_to_dense": 1.0}
