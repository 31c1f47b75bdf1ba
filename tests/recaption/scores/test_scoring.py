"""Scores of captions: equal to the CLIP's own, joined by key, resumed piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from components.errors import ConfigurationError, DataError, Stopped
from components.ml.vision.clip import (
    image_embeddings,
    load_clip,
    load_clip_tokenizer,
    save_clip,
    text_embeddings,
)
from components.ml.vision.pixels import decode_images
from components.recaption.scores.base_clip import BaseClip
from components.recaption.scores.scoring import Agreement
from components.recaption.stage import run
from components.settings.environment import Environment
from components.settings.params import Params
from components.sources.scenes.scene import draw_scenes, render, scene_captions
from components.storage.atomic import read_json
from components.storage.layout import Layout
from components.storage.manifest import folder_key, read_manifest, write_manifest
from components.storage.scores import read_image_embeddings, read_scores
from components.storage.shards import Pair
from components.storage.side_tables import Caption
from tests.clip_project import make_artifacts, put_base
from tests.pairs import write_pairs

SHARDS = {"00000": 5, "00001": 3}
TAKE = {"source": "alt", "column": "again", "take": "first", "splits": ["train"]}
MINE = {"kind": "columns", "name": "mine", "columns": [TAKE]}
OTHER = {"kind": "columns", "name": "other", "columns": [{**TAKE, "column": "third", "source": "short"}]}


def pairs_of(shard: str, count: int) -> list[Pair]:
    pairs = []
    for number in range(count):
        scene = next(draw_scenes(f"scoring_{shard}_{number}", "train", 1, 5))
        file = BytesIO()
        render(scene, 32).save(file, "JPEG", quality=95)
        captions: list[dict[str, Any]] = [
            {"column": column, "language": "en", "number": place, "text": text, "writer": "scenes"}
            for column, texts in scene_captions(scene).items()
            if column in ("alt", "short", "dense")
            for place, text in enumerate(texts)
        ]
        metadata = {"split": "train", "captions": captions}
        pairs.append(Pair(f"k{shard}x{number}", file.getvalue(), captions[0]["text"], metadata))
    return pairs


@pytest.fixture
def layout(workspace: Path) -> Layout:
    """Two shards of scenes and a random CLIP."""
    made = Layout(workspace / ".work")
    make_artifacts(made)
    for path in (made.artifact("download") / "shards").iterdir():
        path.unlink()
    rows = {}
    for shard, count in SHARDS.items():
        name = f"shards/{shard}.tar"
        rows[name] = write_pairs(made.artifact("download") / name, pairs_of(shard, count))
    write_manifest(made.artifact("download"), rows)
    return made


def run_with(smoke: Params, layout: Layout, *captioners: dict[str, Any], **scores: Any) -> dict[str, Any]:
    tree = smoke.model_dump()
    tree["recaption"] |= {
        "captioners": list(captioners),
        "scores": {"columns": None, "batch_size": 4, "precision": "fp32", **scores},
    }
    run(Params.model_validate(tree), Environment(work_store=layout.work_store))
    metrics: dict[str, Any] = read_json(layout.metrics("recaption"))["scores"]
    return metrics


def scores_of(layout: Layout, shard: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    lines = read_scores(layout.artifact("recaption") / "scores" / f"{shard}.parquet").to_pylist()
    return {(line["key"], line["column"], line["number"]): line for line in lines}


def test_similarity_is_that_of_the_model_itself(smoke: Params, layout: Layout) -> None:
    figures = run_with(smoke, layout, MINE)
    folder = layout.artifact("base_models") / "clip"
    model, tokenizer = load_clip(folder), load_clip_tokenizer(folder)
    for shard, count in SHARDS.items():
        scores = scores_of(layout, shard)
        pairs = pairs_of(shard, count)
        assert len(scores) == sum(len(pair.metadata["captions"]) + 1 for pair in pairs)
        for pair in pairs:
            with torch.inference_mode():
                image = image_embeddings(
                    model, decode_images([pair.jpeg], model.config.vision_config.image_size)
                )
                texts = [caption["text"] for caption in pair.metadata["captions"]]
                cosines = (text_embeddings(model, tokenizer, texts) @ image.T).flatten().tolist()
            for caption, cosine in zip(pair.metadata["captions"], cosines, strict=True):
                found = scores[pair.key, caption["column"], caption["number"]]
                assert found["similarity"] == pytest.approx(cosine, abs=2e-3)  # the image's fp16
                tokens = tokenizer(caption["text"])["input_ids"]
                assert found["is_cut"] == (len(tokens) > model.config.text_config.max_position_embeddings)
            again, alt = scores[pair.key, "again", 0], scores[pair.key, "alt", 0]
            assert again["similarity"] == alt["similarity"]
            assert alt["agreement"] == 1.0
    assert figures["similarity"]["dense"]["cut_share"] == 1.0
    assert figures["similarity"]["alt"]["cut_share"] < 1.0
    assert figures["similarity"]["alt"]["captions"] == sum(SHARDS.values())
    assert figures["agreement"]["again / alt"]["mean"] == 1.0
    assert figures["agreement"]["again / alt"]["chance"] < 1.0


def test_bf16_says_nearly_the_same_and_is_another_piece(smoke: Params, layout: Layout) -> None:
    run_with(smoke, layout)
    whole = scores_of(layout, "00000")
    run_with(smoke, layout, precision="bf16")
    half = scores_of(layout, "00000")
    assert half.keys() == whole.keys()
    assert half != whole
    for line, found in half.items():
        assert found["similarity"] == pytest.approx(whole[line]["similarity"], abs=2e-2)


def test_image_embeddings_have_length_one_and_the_keys_of_the_shard(smoke: Params, layout: Layout) -> None:
    run_with(smoke, layout)
    for shard, count in SHARDS.items():
        path = layout.artifact("recaption") / "image_embeddings" / f"{shard}.safetensors"
        keys, vectors = read_image_embeddings(path)
        assert keys == [pair.key for pair in pairs_of(shard, count)]
        assert torch.allclose(vectors.float().norm(dim=1), torch.ones(count), atol=2e-3)


def test_columns_that_are_not_asked_have_no_similarity(smoke: Params, layout: Layout) -> None:
    figures = run_with(smoke, layout, MINE, columns=["alt"])
    assert figures["similarity"].keys() == {"alt"}
    for (_, column, _), line in scores_of(layout, "00000").items():
        assert (line["similarity"] is None) == (column != "alt")
        assert (line["is_cut"] is None) == (column != "alt")
    with pytest.raises(ConfigurationError, match=r"recaption\.scores\.columns names alts"):
        run_with(smoke, layout, MINE, columns=["alt", "alts"])


def counted(monkeypatch: pytest.MonkeyPatch, name: str, stop_at: int | None = None) -> list[int]:
    """Count the items that a method of the CLIP is given; stop at its n-th call."""
    calls: list[int] = []
    method: Callable[..., Any] = getattr(BaseClip, name)

    def counting(self: BaseClip, items: list[Any], *more: Any) -> Any:  # noqa: ANN401 - as the method
        calls.append(len(items))
        if len(calls) == stop_at:
            raise Stopped
        return method(self, items, *more)

    monkeypatch.setattr(BaseClip, name, counting)
    return calls


def test_a_captioner_added_scores_its_own_captions_only(
    smoke: Params, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with(smoke, layout, MINE)
    first = folder_key(layout.artifact("recaption"), "image_embeddings/")
    images, texts = counted(monkeypatch, "embed_images"), counted(monkeypatch, "embed_texts")
    run_with(smoke, layout, MINE, OTHER)
    assert (images, texts) == ([], [5, 3])
    assert folder_key(layout.artifact("recaption"), "image_embeddings/") == first
    run_with(smoke, layout, MINE, OTHER)
    assert (images, texts) == ([], [5, 3])


@pytest.mark.parametrize(("name", "call"), [("embed_images", 2), ("embed_texts", 2), ("embed_texts", 5)])
def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(
    smoke: Params, layout: Layout, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    undisturbed = Layout(layout.work_store / "other")
    run_with(smoke, undisturbed, MINE)
    expected, metrics = read_manifest(layout.artifact("recaption")), read_json(layout.metrics("recaption"))
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        counted(patched, name, call)
        run_with(smoke, layout, MINE)
    calls = counted(monkeypatch, name)
    run_with(smoke, layout, MINE)
    assert read_manifest(layout.artifact("recaption")) == expected
    assert read_json(layout.metrics("recaption")) == metrics
    assert len(calls) == {"embed_images": 2, "embed_texts": 8}[name] - call + 1


def test_a_shard_without_images_has_empty_tables(smoke: Params, layout: Layout) -> None:
    name = "shards/00002.tar"
    write_pairs(layout.artifact("download") / name, [])
    rows = {f"shards/{shard}.tar": count for shard, count in SHARDS.items()}
    write_manifest(layout.artifact("download"), {**rows, name: 0})
    run_with(smoke, layout, MINE)
    assert scores_of(layout, "00002") == {}
    keys, vectors = read_image_embeddings(
        layout.artifact("recaption") / "image_embeddings" / "00002.safetensors"
    )
    assert (keys, len(vectors)) == ([], 0)


def test_a_clip_that_cannot_be_loaded_is_named(smoke: Params, layout: Layout) -> None:
    folder = layout.artifact("base_models")
    weights = folder / "clip" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    write_manifest(folder)
    with pytest.raises(DataError, match="clip cannot be loaded.*llm2clip forget base_models"):
        run_with(smoke, layout, MINE)


def caption(key: str, column: str, text: str, writer: str, language: str = "en") -> Caption:
    return Caption(key, "train", column, language, 0, text, writer)


def _captions() -> Iterator[Caption]:
    for key, colour in (("a", "red"), ("b", "blue")):
        yield caption(key, "alt", f"{colour} dog", "source")
        yield caption(key, "short", f"a {colour} dog runs", "one")
        yield caption(key, "dense", f"a {colour} cat that sleeps", "one")
        yield caption(key, "german", f"{colour} dog", "two", "de")


def test_agreement_by_hand() -> None:
    agreement = Agreement()
    found = agreement.add(list(_captions()))
    assert found == {
        (key, column, 0): value
        for key in ("a", "b")
        for column, value in (("alt", 0.75), ("short", 1.0), ("dense", 0.5))
    }  # of other writers and of one language; `alt` is the mean of both
    assert agreement.figures() == {
        "alt / dense": {"pairs": 2, "mean": 0.5, "chance": 0.0},
        "alt / short": {"pairs": 2, "mean": 1.0, "chance": 0.5},
    }
    assert Agreement().add([]) == {}


def test_a_plain_clip_of_hugging_face_scores_too(smoke: Params, layout: Layout) -> None:
    folder = layout.artifact("base_models")
    tokenizer = load_clip_tokenizer(folder / "clip")
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "projection_dim": 24,
    }
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**shape, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    vision = {**shape, "image_size": 48, "patch_size": 16}
    torch.manual_seed(1)
    plain = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    save_clip(plain.eval(), folder / "clip")
    write_manifest(folder)
    figures = run_with(smoke, layout, MINE)
    assert figures["similarity"]["short"]["cut_share"] == 0.0  # 77 tokens
    path = layout.artifact("recaption") / "image_embeddings" / "00000.safetensors"
    assert read_image_embeddings(path)[1].shape == (SHARDS["00000"], 24)


@pytest.mark.parametrize("family", ["siglip", "eva02_b16"])
def test_other_families_score_too(smoke: Params, layout: Layout, family: str) -> None:
    put_base(layout, family)
    figures = run_with(smoke, layout, MINE)
    assert figures["similarity"]["dense"]["cut_share"] > 0  # 16 tokens
    path = layout.artifact("recaption") / "image_embeddings" / "00000.safetensors"
    width = 16 if family == "siglip" else 8
    assert read_image_embeddings(path)[1].shape == (SHARDS["00000"], width)


def test_a_tower_without_texts_scores_nothing(smoke: Params, layout: Layout) -> None:
    put_base(layout, "eva02_b16", with_text=False)
    with pytest.raises(ConfigurationError, match=r"without a text tower; .*recaption\.scores: null"):
        run_with(smoke, layout, MINE)


def test_tables_hold_no_nan(smoke: Params, layout: Layout) -> None:
    run_with(smoke, layout, MINE)
    table = pq.read_table(layout.artifact("recaption") / "scores" / "00000.parquet")
    similarity = [value for value in table["similarity"].to_pylist() if value is not None]
    assert similarity
    assert all(-1 <= value <= 1 for value in similarity)
