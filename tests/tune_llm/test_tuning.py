"""One step: chunks change no gradient, LoRA leaves the rest alone, embeddings have a rate of their own."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize

from components.ml.losses.contrastive import NegativeMask, caption_loss
from components.ml.text.encoder import TextEncoder, embed, load_text_encoder, tokenise
from components.ml.text.template import Tokens
from components.settings.params import Params
from components.settings.tune_llm import CaptionRetrieval, Lora, TuneLlm
from components.tune_llm import tuning
from components.tune_llm.caption_retrieval import captions_of, embed_pairs, tfidf_recalls
from components.tune_llm.caption_rows import CaptionRows
from components.tune_llm.pairs import NOBODY, PairBatch
from components.tune_llm.shares import own_parts
from components.tune_llm.tuning import batch_backward, llm_run, open_weights, parameter_groups, with_dropout
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


def load(folder: Path) -> TextEncoder:
    return load_text_encoder(
        folder,
        attention="bidirectional",
        pooling="mean",
        template="{text}",
        max_tokens=64,
    )


def batch_of(first: list[str], second: list[str], prompt: str = "", **more: Any) -> PairBatch:
    return PairBatch(first, second, prompt, list(range(len(first))), **more)


def loss_of(encoder: TextEncoder, params: TuneLlm, batch: PairBatch) -> float:
    weights = list(encoder.model.requires_grad_(True).parameters())
    encoder.model.zero_grad()
    return batch_backward(encoder, params, batch, weights).item()


def gradients(encoder: TextEncoder, params: TuneLlm, batch: PairBatch) -> dict[str, Tensor]:
    loss_of(encoder, params, batch)
    return {name: weight.grad for name, weight in encoder.model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("same_side", [False, True])
@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("chunks", [1, 2, 99])
def test_neither_chunks_nor_cache_change_a_gradient(
    folder: Path, own: TuneLlm, chunks: int, is_cached: bool, same_side: bool
) -> None:
    batch = batch_of(FIRST, SECOND, "find: ", negatives=["a horse", "two cats"], negative_rows=[NOBODY, 2])
    encoder = load(folder)
    encoder.model.requires_grad_(True)
    queries = embed(encoder, tokenise(encoder, batch.first, "find: "))
    answers = embed(encoder, tokenise(encoder, batch.second + batch.negatives))
    identities = torch.tensor([[0, 1, 100], [2, 3, 101], [4, 5, 102], [0, 6, 103], [7, 8, 104]])
    others = torch.tensor([[-1, 9, -1], [-1, 10, 102]])
    plain = caption_loss(
        normalize(queries),
        normalize(answers),
        own.temperature,
        symmetric=own.symmetric,
        same_side=same_side,
        excluded=NegativeMask(identities, torch.cat([identities, others])),
    )
    plain.backward()
    whole = {
        name: weight.grad.clone()
        for name, weight in encoder.model.named_parameters()
        if weight.grad is not None
    }
    params = own.model_copy(
        update={"chunks": chunks, "gradient_cache": is_cached, "same_side_negatives": same_side}
    )
    found = gradients(encoder, params, batch)
    assert whole.keys() == found.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
    assert loss_of(encoder, params, batch) == pytest.approx(plain.item(), rel=1e-5)


def test_the_cache_draws_the_same_dropout_twice(
    folder: Path, own: TuneLlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same_parts(*batch: Any, is_lean: bool) -> list[list[Tokens]]:
        return own_parts(*batch, is_lean=True)

    monkeypatch.setattr(tuning, "own_parts", same_parts)
    lora = Lora(rank=4, alpha=8, dropout=0.5, targets=["q_proj", "v_proj"])
    found = []
    for is_cached in (False, True):
        encoder = load(folder)
        open_weights(encoder, lora, seed=1)
        encoder.model.train()
        weights = [weight for weight in encoder.model.parameters() if weight.requires_grad]
        with torch.no_grad():
            for weight in weights:
                weight.add_(0.1)  # LoRA starts with zeros, behind which nothing is dropped
        params = own.model_copy(update={"chunks": 3, "gradient_cache": is_cached})
        torch.manual_seed(5)
        batch_backward(encoder, params, batch_of(FIRST, SECOND), weights)
        found.append([weight.grad for weight in weights])
    for plain, cached in zip(*found, strict=True):
        torch.testing.assert_close(plain, cached, rtol=1e-5, atol=1e-7)


def test_the_cache_embeds_each_chunk_twice_and_holds_one_graph_at_a_time(
    folder: Path, own: TuneLlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: weakref.WeakSet[Tensor] = weakref.WeakSet()
    calls: list[tuple[bool, int]] = []

    def watched(*arguments: Any) -> Tensor:
        calls.append((torch.is_grad_enabled(), len(waiting)))
        embeddings = embed(*arguments)
        if embeddings.requires_grad:
            waiting.add(embeddings)
        return embeddings

    def equal_parts(*batch: Any, is_lean: bool) -> list[list[Tokens]]:
        return own_parts(*batch, is_lean=False)

    monkeypatch.setattr(tuning, "embed", watched)
    monkeypatch.setattr(tuning, "own_parts", equal_parts)
    encoder = load(folder)
    for is_cached, expected in (
        (True, [(False, 0)] * 3 + [(True, 0)] * 3),
        (False, [(True, 0), (True, 1), (True, 2)]),
    ):
        params = own.model_copy(update={"chunks": 3, "gradient_cache": is_cached})
        loss_of(encoder, params, batch_of(FIRST, SECOND))
        assert calls == expected
        calls.clear()


def test_a_step_sees_captions_short_of_tokens(
    folder: Path, own: TuneLlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tokens] = []

    def watched(encoder: TextEncoder, rows: list[Tokens]) -> Tensor:
        seen.extend(rows)
        return embed(encoder, rows)

    monkeypatch.setattr(tuning, "embed", watched)
    encoder = load(folder)
    rows = tokenise(encoder, FIRST, "find: ") + tokenise(encoder, SECOND)
    torch.manual_seed(5)
    expected = with_dropout(rows, 0.5)
    assert expected != rows
    torch.manual_seed(5)
    loss_of(encoder, own.model_copy(update={"token_dropout": 0.5}), batch_of(FIRST, SECOND, "find: "))
    assert sorted(row.ids for row in seen) == sorted(row.ids for row in expected)


def test_dropout_leaves_out_tokens_of_the_text_alone(folder: Path) -> None:
    encoder = load(folder)
    encoder.template = "a cat: {text} dogs"
    rows = tokenise(encoder, FIRST, "find ")
    torch.manual_seed(1)
    dropped = with_dropout(rows, 0.5)
    assert [one.text_start for one in dropped] == [row.text_start for row in rows]
    for row, one in zip(rows, dropped, strict=True):
        assert one.ids[: one.text_start] == row.ids[: row.text_start]
        assert one.ids[one.text_end :] == row.ids[row.text_end :]
        kept, text = one.ids[one.text_start : one.text_end], list(row.ids[row.text_start : row.text_end])
        assert kept and all(token in text for token in kept)
    assert sum(len(one.ids) for one in dropped) < sum(len(row.ids) for row in rows)
    assert with_dropout(rows, 0.0) == rows
    torch.manual_seed(2)
    assert all(one.text_end > one.text_start for one in with_dropout(rows, 0.99))


def test_equal_captions_are_no_negatives_whatever_their_case(folder: Path, own: TuneLlm) -> None:
    encoder = load(folder)
    first, second = ["a red circle", "a cat"], ["red circle", "A  CAT"]
    apart = loss_of(encoder, own, batch_of(first, second))
    # the same pair twice: were its copy a negative, the loss would grow by about log 2 for those rows
    doubled = loss_of(encoder, own, batch_of([*first, "A RED circle"], [*second, "red circle"]))
    own_share = loss_of(
        encoder, own, batch_of(["a red circle", "A RED circle"], ["red circle", "red circle"])
    )
    assert own_share == pytest.approx(0, abs=1e-6)
    assert doubled < apart + 0.5


def test_nearer_than_the_answer_by_more_than_the_margin_is_no_negative(folder: Path, own: TuneLlm) -> None:
    encoder = load(folder)
    # each answers the other's question better
    batch = batch_of(["a cat", "two dogs play"], ["dogs play in the snow", "a cat on a mat"])
    within = [
        loss_of(encoder, own.model_copy(update={"false_negative_margin": margin}), batch)
        for margin in (0.0, 2.0, None)
    ]
    assert within[0] == pytest.approx(0, abs=1e-6)
    assert within[1] == within[2] > 0.1


def test_a_lora_adds_its_product_by_alpha_over_rank_to_inputs_of_which_some_are_dropped(
    folder: Path,
) -> None:
    encoder = load(folder)
    plain: nn.Linear = encoder.model.layers[0].self_attn.q_proj  # type: ignore[union-attr, index]
    open_weights(encoder, Lora(rank=4, alpha=12, dropout=0.25, targets=["q_proj"]), seed=1)
    wrapped: Any = encoder.model.layers[0].self_attn.q_proj  # type: ignore[union-attr, index]
    down, up = wrapped.lora_A["default"].weight, wrapped.lora_B["default"].weight
    nn.init.normal_(up)
    inputs = torch.randn(5, encoder.dimension)
    torch.manual_seed(3)
    expected = plain(inputs) + 12 / 4 * dropout(inputs, 0.25) @ down.T @ up.T
    torch.manual_seed(3)
    torch.testing.assert_close(wrapped.train()(inputs), expected)


def test_weights_decay_by_their_rate_where_nothing_is_learned(folder: Path, own: TuneLlm) -> None:
    encoder = load(folder)
    open_weights(encoder, None, seed=1)
    before = [weight.detach().clone() for weight in encoder.model.parameters()]

    def no_gradient(_number: int, weights: Sequence[Tensor]) -> Tensor:
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        return torch.zeros(())

    params = own.model_copy(update={"weight_decay": 0.1})
    run = llm_run(encoder, params, own.phases[0], "decay", 1, no_gradient)
    for group in run.optimizer.param_groups:
        group["lr"] = 0.5
    run.step(0)
    for weight, old in zip(encoder.model.parameters(), before, strict=True):
        torch.testing.assert_close(weight.detach(), old * (1 - 0.5 * 0.1))


def test_lora_learns_its_own_weights_only(folder: Path, own: TuneLlm) -> None:
    encoder = load(folder)
    assert open_weights(encoder, own.lora, seed=1) is not None
    learning = [name for name, weight in encoder.model.named_parameters() if weight.requires_grad]
    assert learning
    assert all("lora_" in name for name in learning)
    (group,) = parameter_groups(encoder.model, own.phases[0].learning_rate, 1.0)
    assert group["peak"] == own.phases[0].learning_rate


def test_full_tuning_gives_embeddings_a_rate_of_their_own(folder: Path, own: TuneLlm) -> None:
    encoder = load(folder)
    assert open_weights(encoder, None, seed=1) is None
    rest, embeddings = parameter_groups(encoder.model, 0.1, 3.0)
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

    assert embed_pairs(["q0", "q1"], ["x", "y"], encode).recall_at_1() == 1.0
    assert embed_pairs(["q0", "q1"], ["y", "x"], encode).recall_at_1() == 0.0
    assert embed_pairs(["q0", "q1", "q2"], ["x", "y", "x"], encode).recall_at_1() == 1.0


def test_a_column_with_itself_uses_two_captions() -> None:
    captions = {str(number): {"en": [f"a{number}", f"b{number}", "c"]} for number in range(3)}
    rows = CaptionRows.of(captions | {"short": {"en": ["alone"]}})
    task = CaptionRetrieval(name="english", first="en", second="en")
    assert captions_of(task, rows) == (["a0", "a1", "a2"], ["b0", "b1", "b2"])


def test_tfidf_finds_shared_words() -> None:
    rows = CaptionRows.of(
        {
            "0": {"short": ["a red circle"], "dense": ["the circle in the corner is red"]},
            "1": {"short": ["a blue square"], "dense": ["this square, which is blue"]},
        }
    )
    task = CaptionRetrieval(name="short_to_dense", first="short", second="dense")
    assert tfidf_recalls([task], rows) == {"short_to_dense": 1.0}


BEFORE, AFTER = (1, 2), (3,)  # of a template
ROWS = [Tokens((*BEFORE, *range(10, 10 + length), *AFTER), 2, 2 + length) for length in (1, 7, 30, 400)]


def text_of(row: Tokens) -> tuple[int, ...]:
    return row.ids[row.text_start : row.text_end]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_template_and_order_stay(share: float) -> None:
    torch.manual_seed(1)
    for before, after in zip(ROWS, with_dropout(ROWS, share), strict=True):
        assert after.ids == (*BEFORE, *text_of(after), *AFTER)
        assert text_of(after) == tuple(sorted(text_of(after)))
        assert {*text_of(after)} <= {*text_of(before)}
        assert text_of(after)
    long = len(text_of(after))
    assert long == pytest.approx(400 * (1 - share), abs=4 * (400 * share * (1 - share)) ** 0.5)


def test_without_a_share_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    assert with_dropout(ROWS, 0.0) == ROWS
    assert torch.equal(torch.get_rng_state(), before)
