"""The stage: every caption embedded once, only what is missing, joined by key, checked again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.embed_captions.embedding import distinct
from components.embed_captions.llms import Llm
from components.embed_captions.stage import run
from components.errors import ConfigurationError, DataError
from components.ml.text.encoder import encode, load_text_encoder
from components.ml.text.sentence_transformers_export import MARK, frame_tokenizer
from components.settings.environment import Environment
from components.settings.params import Params
from components.storage.atomic import read_json, remove, write_json
from components.storage.embeddings import read_embeddings, read_prompts
from components.storage.layout import Layout
from components.storage.manifest import write_manifest
from components.storage.side_tables import read_captions, read_keys, write_captions, write_keys
from tests.captioned import write_llm
from tests.embedded import rows_of
from tests.language_models import write_llama3

HOSTILE = ["👩\u200d👩\u200d👧", "\u202eمرحبا", "\u200b", "a <eos> <bos> dog", "cut " * 250_000]


@pytest.fixture
def tuned(layout: Layout, smoke: Params) -> Layout:
    """The artifacts, and a second LLM in the place of a tuned one."""
    folder = layout.artifact("tune_llm")
    texts = read_captions(layout.artifact("recaption") / "captions" / "00001.parquet")
    write_llm(folder / "llm", [caption.text for caption in texts], seed=5)
    write_json(
        folder / "encoding.json",
        {**smoke.tune_llm.encoding.model_dump(), "query_prompts": {"a_to_b": "find: "}},
    )
    write_manifest(folder)
    return layout


def changed(smoke: Params, **update: Any) -> Params:
    return smoke.model_copy(update={"embed_captions": smoke.embed_captions.model_copy(update=update)})


def stored(layout: Layout) -> dict[str, bytes]:
    folder = layout.artifact("embed_captions")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def no_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an LLM was loaded")

    monkeypatch.setattr("components.ml.text.encoder.load_text_encoder", refuse)


def test_every_kept_caption_has_its_own_embedding(tuned: Layout, smoke: Params, env: Environment) -> None:
    run(smoke, env)
    encoding = read_json(tuned.artifact("tune_llm") / "encoding.json")
    captions = [
        caption
        for shard in ("00000", "00001")
        for kept in [read_keys(tuned.artifact("audit") / "kept" / f"{shard}.parquet")]
        for caption in read_captions(tuned.artifact("recaption") / "captions" / f"{shard}.parquet")
        if caption.key in kept
    ]
    for name, artifact in (("base", "base_models"), ("tuned", "tune_llm")):
        columns = {caption.column for caption in captions}
        found = read_embeddings(tuned.artifact("embed_captions") / name, columns, Path(".work"))
        assert found.about["llm"] == name
        assert found.about["query_prompts"] == {"a_to_b": "find: "}
        assert len(found.table) == len(captions)
        encoder = load_text_encoder(tuned.artifact(artifact) / "llm", **encoding)
        expected = encode(encoder, [caption.text for caption in captions], 1000)
        vectors = found.vectors.whole()
        rows = [rows_of(found, caption.column, [caption.key])[0][caption.number] for caption in captions]
        cosines = torch.nn.functional.cosine_similarity(vectors[rows].float(), expected)
        assert float(cosines.min()) > 0.9999
        # stored as the LLM gives them
        assert not torch.allclose(vectors.float().norm(dim=1), torch.ones(len(vectors)))


def test_metrics_balance_and_prompts_cover_the_classes_of_test(
    tuned: Layout, smoke: Params, env: Environment
) -> None:
    run(smoke, env)
    metrics = read_json(tuned.metrics("embed_captions"))
    assert (metrics["rows_in"], metrics["rows_out"]) == (40, 39)
    assert metrics["rejected"] == {"not_kept_by_audit": 1}
    assert metrics["llms"]["tuned"]["recheck_min_cosine"] > 0.9999
    prompts = read_prompts(tuned.artifact("embed_captions") / "base", Path(".work")).table.to_pylist()
    templates = smoke.evaluate.zero_shot[0].templates
    labels = {prompt["label"] for prompt in prompts}
    assert len(prompts) == len(labels) * len(templates)
    assert {prompt["task"] for prompt in prompts} == {"object"}


def test_a_second_run_loads_no_llm_and_gives_the_same_bytes(
    tuned: Layout, smoke: Params, env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(smoke, env)
    first = stored(tuned)
    run(smoke, Environment(work_store=Path("other")))
    assert stored(tuned) == first
    no_llm(monkeypatch)
    run(smoke, env)
    assert stored(tuned) == first


def test_new_captions_and_a_new_llm_compute_only_what_is_missing(
    tuned: Layout, smoke: Params, env: Environment
) -> None:
    pieces = tuned.work("embed_captions") / "pieces"

    def made_by(params: Params) -> int:
        before = set(pieces.rglob("manifest.json"))
        run(params, env)
        return len(set(pieces.rglob("manifest.json")) - before)

    captions = tuned.artifact("recaption") / "captions" / "00001.parquet"
    lines = read_captions(captions)
    columns = [
        {line.column for line in read_captions(path)}
        for path in (captions.with_name("00000.parquet"), captions)
    ]
    files = sum(map(len, columns)) + 1  # and the prompts
    assert made_by(changed(smoke, llms=["base"])) == files
    assert made_by(smoke) == files
    first = stored(tuned)
    written = [replace(line, column="new_dense", writer="new") for line in lines if line.column == "dense"]
    write_captions(captions, [*lines, *written])
    write_manifest(tuned.artifact("recaption"))
    assert made_by(smoke) == 2  # one captioner more, on one shard, for two LLMs
    added = {name for name in stored(tuned).keys() - first.keys() if name.endswith(".safetensors")}
    assert added == {f"{llm}/new_dense/00001.safetensors" for llm in ("base", "tuned")}
    assert all(stored(tuned)[name] == data for name, data in first.items() if name != "manifest.json")
    changed_line = replace(lines[-1], text="another text")
    write_captions(captions, [*lines[:-1], changed_line, *written])
    write_manifest(tuned.artifact("recaption"))
    assert made_by(smoke) == 2


def test_rows_in_another_order_find_the_same_embeddings(
    tuned: Layout, smoke: Params, env: Environment
) -> None:
    folder = tuned.artifact("embed_captions") / "tuned"
    run(smoke, env)
    before = read_embeddings(folder, ["alt", "dense"], Path(".work"))
    captions = tuned.artifact("recaption") / "captions" / "00000.parquet"
    write_captions(captions, read_captions(captions)[::-1])
    write_manifest(tuned.artifact("recaption"))
    run(smoke, env)
    after = read_embeddings(folder, ["alt", "dense"], Path(".work"))
    old, new = before.vectors.whole(), after.vectors.whole()
    keys = sorted(set(before.table["key"].to_pylist()))
    for column in ("alt", "dense"):
        one, other = rows_of(before, column, keys), rows_of(after, column, keys)
        assert [len(rows) for rows in one] == [len(rows) for rows in other]
        for rows, others in zip(one, other, strict=True):
            torch.testing.assert_close(old[rows], new[others], rtol=1e-2, atol=1e-3)


def test_hostile_captions_are_embedded_like_any(tuned: Layout, smoke: Params, env: Environment) -> None:
    captions = tuned.artifact("recaption") / "captions" / "00000.parquet"
    lines = read_captions(captions)
    hostile = [
        type(lines[0])(lines[0].key, "train", "hostile", "en", number, text, "people")
        for number, text in enumerate(HOSTILE)
    ]
    write_captions(captions, [*lines, *hostile])
    write_manifest(tuned.artifact("recaption"))
    run(changed(smoke, llms=["tuned"]), env)
    found = read_embeddings(tuned.artifact("embed_captions") / "tuned", ["hostile"], Path(".work"))
    assert len(rows_of(found, "hostile", [lines[0].key])[0]) == len(HOSTILE)
    assert read_json(tuned.metrics("embed_captions"))["llms"]["tuned"]["cut_captions"] == 1


def test_equal_texts_share_a_row() -> None:
    rows, texts, keys = distinct(["über", "b", "u\u0308ber"])
    assert (rows, texts, len(set(keys))) == ([0, 1, 0], ["über", "b"], 2)
    assert distinct(["u\u0308ber", "b", "über"]) == (rows, texts, keys)  # whichever comes first


def test_a_text_that_has_no_token_is_a_fault_of_the_data(tuned: Layout, smoke: Params) -> None:
    folder = tuned.artifact("tune_llm")
    remove(folder / "llm")
    write_llama3(folder / "llm")
    frame_tokenizer(folder / "llm", [], [])  # as a tuned model's is
    write_manifest(folder)
    encoder = Llm("tuned", tuned, smoke.embed_captions, "cpu")
    assert len(encoder.encode(["a dog"], lambda _: None).vectors) == 1
    with pytest.raises(DataError, match="has no token; expected at least one"):
        encoder.encode([MARK], lambda _: None)


def test_a_shard_of_which_nothing_was_kept_has_no_file(
    tuned: Layout, smoke: Params, env: Environment
) -> None:
    write_keys(tuned.artifact("audit") / "kept" / "00001.parquet", [])
    write_manifest(tuned.artifact("audit"))
    run(smoke, env)
    assert {Path(name).stem for name in stored(tuned) if "/" in name} == {"00000", "prompts"}
    kept = read_keys(tuned.artifact("audit") / "kept" / "00000.parquet")
    found = read_embeddings(tuned.artifact("embed_captions") / "base", ["alt"], Path(".work"))
    assert set(found.table["key"].to_pylist()) == kept


def test_a_cosine_below_the_limit_is_refused(tuned: Layout, smoke: Params, env: Environment) -> None:
    run(smoke, env)
    with pytest.raises(DataError, match="asks for 1.5"):
        run(changed(smoke, min_recheck_cosine=1.5), env)


def test_a_damaged_piece_is_made_again(tuned: Layout, smoke: Params, env: Environment) -> None:
    run(smoke, env)
    first = stored(tuned)
    for path in (tuned.work("embed_captions") / "pieces").rglob("*.safetensors"):
        data = path.read_bytes()
        path.unlink()  # a piece is linked into the artifact: never written to in place
        path.write_bytes(data[:-4])
    run(smoke, env)
    assert stored(tuned) == first


def test_missing_shards_and_labels_are_named(tuned: Layout, smoke: Params, env: Environment) -> None:
    task = smoke.evaluate.zero_shot[0].model_copy(update={"label": "colour_of_hat"})
    evaluate = smoke.evaluate.model_copy(update={"zero_shot": [task]})
    with pytest.raises(ConfigurationError, match="no test row has the label colour_of_hat; its labels are"):
        run(smoke.model_copy(update={"evaluate": evaluate}), env)
    remove(tuned.artifact("audit") / "kept" / "00001.parquet")
    write_manifest(tuned.artifact("audit"))
    with pytest.raises(DataError, match="has keys of 1 shards"):
        run(smoke, env)
