"""Losses by numbers worked out by hand, and by invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from components.ml.losses import contrastive
from components.ml.losses.contrastive import NegativeMask, caption_loss, captions_loss, clip_loss


def unit(rows: int, dimension: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, dimension, generator=generator, dtype=torch.float32)
    return torch.nn.functional.normalize(drawn, dim=1)


def test_orthogonal_pairs_have_the_closed_form() -> None:
    # logits: scale on the diagonal, 0 elsewhere
    loss = clip_loss(torch.eye(4), torch.eye(4), torch.tensor(3.0))
    assert loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-3)), rel=1e-5)


def test_equal_rows_cost_the_logarithm_of_the_batch() -> None:
    row = torch.tensor([[1.0, 0.0]]).repeat(5, 1)
    assert clip_loss(row, row, torch.tensor(50.0)).item() == pytest.approx(math.log(5), rel=1e-5)


def test_one_direction_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # row 0: logits 2, 2; row 1: logits 0, 0. Back: each of `second` sees 2 and 0, and belongs to 0 and 1
    forth = math.log(2)
    back = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert caption_loss(first, second, 0.5, symmetric=False).item() == pytest.approx(forth, rel=1e-5)
    both = caption_loss(first, second, 0.5, symmetric=True)
    assert both.item() == pytest.approx((forth + back) / 2, rel=1e-5)


def test_order_of_pairs_does_not_matter() -> None:
    first, second, order = unit(7, 5, 1), unit(7, 5, 2), torch.randperm(7)
    one = caption_loss(first, second, 0.1, symmetric=True)
    other = caption_loss(first[order], second[order], 0.1, symmetric=True)
    assert one.item() == pytest.approx(other.item(), rel=1e-5)


def test_a_shared_caption_is_no_negative() -> None:
    first, second = unit(3, 4, 1), unit(3, 4, 2)
    # rows 0 and 2 share text 7, once as first and once as second caption
    captions = torch.tensor([[7, 1], [2, 3], [4, 7]])
    loss = caption_loss(first, second, 0.5, symmetric=False, excluded=NegativeMask(captions, captions))
    logits = (first @ second.T / 0.5).double()
    expected = [
        torch.logsumexp(logits[0, [0, 1]], 0) - logits[0, 0],
        torch.logsumexp(logits[1], 0) - logits[1, 1],
        torch.logsumexp(logits[2, [1, 2]], 0) - logits[2, 2],
    ]
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_any_shared_identity_counts_and_negative_ones_are_nobody_s() -> None:
    draw = torch.Generator().manual_seed(3)
    first, second = unit(40, 5, 1), unit(47, 5, 2)
    of_first = torch.randint(-3, 60, (40, 3), generator=draw)
    of_second = torch.randint(-3, 60, (47, 2), generator=draw) + (1 << 41) * torch.tensor([0, 1])
    shared = [
        [bool({*map(int, row)} & {int(one) for one in other if one >= 0}) for other in of_second]
        for row in of_first
    ]
    kept = ~torch.tensor(shared) | torch.eye(40, 47, dtype=torch.bool)
    assert (~kept).any()
    logits = (first @ second.T / 0.5).masked_fill(~kept, float("-inf"))
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(40))
    loss = caption_loss(first, second, 0.5, symmetric=False, excluded=NegativeMask(of_first, of_second))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_batch_of_one_text_costs_nothing() -> None:
    rows = unit(3, 4, 1)
    captions = torch.zeros(3, 2, dtype=torch.long)
    excluded = NegativeMask(captions, captions)
    assert caption_loss(rows, rows, 0.1, symmetric=True, excluded=excluded).item() == pytest.approx(
        0, abs=1e-6
    )


def test_further_negatives_by_hand() -> None:
    first, second = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    # logits: row 0: 2, 0, 1.2; row 1: 0, 2, 1.6. Back, only the queries answer: 2 and 0 each
    forth = sum(math.log(1 + math.exp(-2) + math.exp(near - 2)) for near in (1.2, 1.6)) / 2
    back = math.log(1 + math.exp(-2))
    assert caption_loss(first, second, 0.5, symmetric=False).item() == pytest.approx(forth, rel=1e-5)
    both = caption_loss(first, second, 0.5, symmetric=True)
    assert both.item() == pytest.approx((forth + back) / 2, rel=1e-5)


def test_a_further_negative_of_the_same_row_is_none() -> None:
    first, second = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    rows = torch.tensor([[0, 100], [1, 101]])
    candidates = torch.tensor([[0, 100], [1, 101], [-1, 101]])  # the third is of row 1; -1 is nobody's text
    loss = caption_loss(first, second, 0.5, symmetric=False, excluded=NegativeMask(rows, candidates))
    expected = (math.log(1 + math.exp(-2) + math.exp(1.2 - 2)) + math.log(1 + math.exp(-2))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    nobody = NegativeMask(torch.full((2, 1), -1), torch.full((3, 1), -1))
    plain = caption_loss(first, second, 0.5, symmetric=False)
    assert caption_loss(first, second, 0.5, symmetric=False, excluded=nobody).item() == plain.item()


def test_what_is_nearer_than_the_positive_by_the_margin_is_no_negative() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    # cosines: row 0: 0.6, 1.0; row 1: 0.8, 0.0. Positives 0.6 and 0.0
    loose = caption_loss(first, second, 1.0, symmetric=False, excluded=NegativeMask(margin=0.5))
    assert loose.item() == pytest.approx(math.log(1 + math.exp(0.4)) / 2, rel=1e-5)  # row 1 has none left
    tight = caption_loss(first, second, 1.0, symmetric=False, excluded=NegativeMask(margin=0.1))
    assert tight.item() == pytest.approx(0, abs=1e-6)
    # back: column 0 sees 0.8 beside its 0.6, column 1 sees 1.0 beside its 0.0
    back = caption_loss(first, second, 1.0, symmetric=True, excluded=NegativeMask(margin=0.5))
    assert back.item() == pytest.approx(
        (math.log(1 + math.exp(0.4)) / 2 + math.log(1 + math.exp(0.2)) / 2) / 2, rel=1e-5
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_orthogonal_pairs_told_from_both_sides(symmetric: bool) -> None:
    # beside its positive each row sees two others of either side
    loss = caption_loss(torch.eye(3), torch.eye(3), 0.5, symmetric=symmetric, same_side=True)
    assert loss.item() == pytest.approx(math.log(1 + 4 * math.exp(-2)), rel=1e-5)


@pytest.mark.parametrize("margin", [None, 0.2])
@pytest.mark.parametrize("symmetric", [False, True])
def test_negatives_of_the_same_side_by_their_definition(symmetric: bool, margin: float | None) -> None:
    first, second = unit(5, 3, 1), unit(7, 3, 2)
    identities = torch.tensor([[0, 1], [2, 3], [4, 5], [0, 6], [7, 8]])  # 0 and 3 have a text in common
    further = torch.tensor([[-1, 4], [-1, 9]])  # the first is a text of row 2
    excluded = NegativeMask(identities, torch.cat([identities, further]), margin=margin)

    def cost(own: Tensor, others: Tensor, row: int) -> float:
        positive = float(own[row] @ others[row])
        seen = [positive]
        for candidates in (others, own[:5]):
            for number, candidate in enumerate(candidates):
                cosine = float(own[row] @ candidate)
                texts = identities[number] if number < 5 else further[number - 5]
                is_known = bool((identities[row][:, None] == texts[None]).any())
                is_near = margin is not None and cosine > positive + margin
                if number != row and not is_known and not is_near:
                    seen.append(cosine)
        return math.log(sum(math.exp(cosine / 0.1) for cosine in seen)) - positive / 0.1

    forth = [cost(first, second, row) for row in range(5)]
    back = [cost(second, torch.cat([first, second[5:]]), row) for row in range(5)]
    costs = forth + back if symmetric else forth
    loss = caption_loss(first, second, 0.1, symmetric=symmetric, same_side=True, excluded=excluded)
    assert loss.item() == pytest.approx(sum(costs) / len(costs), rel=1e-4)


def test_texts_that_a_guide_finds_alike_are_no_negatives() -> None:
    images, texts = unit(3, 4, 1), unit(3, 4, 2)
    guides = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])  # cosines 0.8, 0 and 0.6
    logits = (images @ texts.T * 2).double()
    out = torch.zeros(3, 3, dtype=torch.bool)
    out[0, 1] = out[1, 0] = True
    kept = logits.masked_fill(out, -math.inf)
    expected = (kept.logsumexp(1) + kept.logsumexp(0) - 2 * logits.diagonal()).mean() / 2
    excluded = NegativeMask(guides=guides, guide_cosine=0.7)
    assert clip_loss(images, texts, torch.tensor(2.0), excluded).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    none = NegativeMask(guides=guides, guide_cosine=0.9)
    plain = clip_loss(images, texts, torch.tensor(2.0))
    assert clip_loss(images, texts, torch.tensor(2.0), none).item() == plain.item()


def test_chunks_change_neither_loss_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = torch.tensor([[row % 5, 10 + row] for row in range(8)])

    def loss_and_gradients() -> list[Tensor]:
        first, second = unit(8, 6, 1).requires_grad_(), unit(8, 6, 2).requires_grad_()
        scale = torch.tensor(9.0, requires_grad=True)
        excluded = NegativeMask(captions, captions, margin=0.3)
        loss = clip_loss(first, second, scale)
        for same_side in (False, True):
            loss = loss + caption_loss(
                first, second, 0.2, symmetric=True, same_side=same_side, excluded=excluded
            )
        loss.backward()
        found = [loss.detach()]
        for tensor in (first, second, scale):
            assert tensor.grad is not None
            found.append(tensor.grad)
        return found

    whole = loss_and_gradients()
    monkeypatch.setattr(contrastive, "CHUNK_ROWS", 3)
    for one, other in zip(whole, loss_and_gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_logits_stay_fp32_under_autocast() -> None:
    first, second = unit(16, 32, 1), unit(16, 32, 2)
    plain = clip_loss(first, second, torch.tensor(100.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = clip_loss(first, second, torch.tensor(100.0))
    assert cast.item() == plain.item()


def test_one_caption_an_image_is_the_loss_of_clip() -> None:
    images, texts, scale = unit(7, 5, 1), unit(7, 5, 2), torch.tensor(9.0)
    guides = NegativeMask(guides=unit(7, 3, 3), guide_cosine=0.5)
    for excluded in (None, guides):
        several = captions_loss(images, texts, scale, 1, excluded)
        assert several.item() == clip_loss(images, texts, scale, excluded).item()
    further = torch.cat([texts, unit(3, 5, 4)])
    plain = contrastive._info_nce(images, further, scale, symmetric=True, excluded=NegativeMask())
    assert captions_loss(images, further, scale, 1).item() == pytest.approx(plain.item(), rel=1e-5)


def test_several_captions_and_further_negatives_by_hand() -> None:
    images = torch.eye(2)
    # two captions of each image, then one of another; by image 0 and 1 logits are twice their numbers
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6], [0.28, 0.96]])
    scale = torch.tensor(2.0)
    # image 0: positives 2 and 1.2 against 0, 1.6, 0.56; image 1: positives 2 and 1.2 against 0, 1.6, 1.92
    forth = [
        math.log(1 + sum(math.exp(other - positive) for other in others))
        for others in ([0, 1.6, 0.56], [0, 1.6, 1.92])
        for positive in (2.0, 1.2)
    ]
    # back, each caption sees the two images: 2 and 0, 1.2 and 1.6, 2 and 0, 1.2 and 1.6
    back = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(0.4))] * 2
    loss = captions_loss(images, texts, scale, 2)
    assert loss.item() == pytest.approx((sum(forth) / 4 + sum(back) / 4) / 2, rel=1e-5)


def test_a_further_caption_of_the_image_itself_is_no_negative_of_it() -> None:
    images, texts = torch.eye(2), torch.cat([torch.eye(2), torch.eye(2)[:1]])
    rows = torch.tensor([[10], [11]])
    owners = torch.tensor([[10], [11], [10]])  # the third caption is of image 0 too
    scale = torch.tensor(2.0)
    forth = (math.log(1 + math.exp(-2)) + math.log(1 + 2 * math.exp(-2))) / 2
    back = math.log(1 + math.exp(-2))
    loss = captions_loss(images, texts, scale, 1, NegativeMask(rows, owners))
    assert loss.item() == pytest.approx((forth + back) / 2, rel=1e-5)


def test_a_caption_near_to_any_of_an_image_s_own_is_no_negative() -> None:
    images, texts = unit(3, 4, 1), unit(6, 4, 2)
    guides = torch.eye(6)
    guides[3] = guides[1]  # the second caption of image 1 says what the second of image 0 does
    scale = torch.tensor(5.0)
    logits = (scale * images @ texts.T).double()
    kept = torch.tensor([[0, 0, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    forth = [
        torch.logsumexp(torch.cat([logits[i, [2 * i + j]], logits[i, kept[i]]]), 0) - logits[i, 2 * i + j]
        for i in range(3)
        for j in range(2)
    ]
    back = [
        torch.logsumexp(torch.stack([logits[i, c] for i in range(3) if i == c // 2 or kept[i, c]]), 0)
        - logits[c // 2, c]
        for c in range(6)
    ]
    expected = (torch.stack(forth).mean() + torch.stack(back).mean()) / 2
    loss = captions_loss(images, texts, scale, 2, NegativeMask(guides=guides, guide_cosine=0.9))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_without_negatives_costs_nothing_and_has_finite_gradients() -> None:
    images, texts = unit(1, 4, 1).requires_grad_(), unit(3, 4, 2).requires_grad_()
    loss = captions_loss(images, texts, torch.tensor(5.0), 3)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert images.grad is not None
    assert texts.grad is not None
    assert images.grad.isfinite().all()
    assert texts.grad.isfinite().all()


def test_chunks_of_images_have_the_loss_and_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for rows in (1024, 3):
        monkeypatch.setattr(contrastive, "CHUNK_ROWS", rows)
        images, texts = unit(8, 5, 1).requires_grad_(), unit(8 * 3 + 4, 5, 2).requires_grad_()
        scale = torch.tensor(7.0, requires_grad=True)
        owners = torch.cat([torch.arange(8).repeat_interleave(3), torch.tensor([2, 9, 9, 5])])
        excluded = NegativeMask(torch.arange(8)[:, None], owners[:, None], unit(28, 4, 4), 0.6)
        loss = captions_loss(images, texts, scale, 3, excluded)
        loss.backward()
        found.append([loss.detach(), images.grad, texts.grad, scale.grad])
    for whole, chunked in zip(*found, strict=True):
        assert torch.allclose(whole, chunked, atol=1e-6)


def test_gradients_of_several_captions_are_those_of_differences() -> None:
    images, texts = unit(3, 4, 1).double(), unit(3 * 2 + 2, 4, 2).double()

    def loss(image_rows: Tensor, text_rows: Tensor) -> Tensor:
        logits = 3.0 * image_rows @ text_rows.T
        total = torch.zeros((), dtype=torch.double)
        for image in range(3):
            others = torch.cat([logits[image, : 2 * image], logits[image, 2 * image + 2 :]])
            for caption in (2 * image, 2 * image + 1):
                positive = logits[image, caption]
                total = total + torch.logsumexp(torch.cat([positive[None], others]), 0) - positive
                total = total + torch.logsumexp(logits[:, caption], 0) - positive
        return total / 12

    left, left_texts = images.clone().requires_grad_(), texts.clone().requires_grad_()
    loss(left, left_texts).backward()
    right, right_texts = images.float().requires_grad_(), texts.float().requires_grad_()
    captions_loss(right, right_texts, torch.tensor(3.0), 2).backward()
    for one, other in ((left, right), (left_texts, right_texts)):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad.float(), other.grad, atol=1e-6)
