"""The saved encoder loads as a sentence-transformers model that gives its vectors, or it is said why not."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Regex, normalizers
from torch import Tensor
from transformers import AutoModel

from components.ml.text.encoder import TextEncoder, encode, encode_tokens, load_text_encoder, tokenise
from components.ml.text.sentence_transformers_export import write_layout
from tests.captioned import write_llm
from tests.language_models import FAMILIES

TEXTS = [
    "A red circle.",
    "  two small dogs ",
    "\n\nrun <bos> <|eot_id|> </s> <|im_end|> {text}",
    "\U0001f469\u200d\U0001f467 \u0645\u0631\u062d\u0628\u0627",
    "cut: " + "green grass and sand " * 60,
    "a",
]
PROMPT = "Given a caption, retrieve a similar relevant caption."


def load(folder: Path, **changes: Any) -> TextEncoder:
    settings: dict[str, Any] = {
        "attention": "bidirectional",
        "pooling": "mean",
        "template": "{text}",
        "max_tokens": 120,
        "query_prompts": {"short_to_dense": PROMPT},
        **changes,
    }
    return load_text_encoder(folder, **settings)


def saved(folder: Path, encoder: TextEncoder) -> str | None:
    """Save an encoder as tune_llm does, and the layout; return why not."""
    encoder.model.save_pretrained(folder)  # type: ignore[operator]
    encoder.tokenizer.save_pretrained(folder)
    return write_layout(folder, encoder)


def vectors(folder: Path, texts: list[str], name: str = "") -> Tensor:
    """Encode by sentence-transformers; `name` is that of a prompt."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    if name == "query":
        return torch.from_numpy(model.encode_query(texts))
    done = model.encode(texts, prompt_name=name or None)
    if not name:
        assert (done == model.encode_document(texts)).all()
    return torch.from_numpy(done)


def check_same_vectors(folder: Path, encoder: TextEncoder, texts: list[str]) -> None:
    prompts = {*encoder.query_prompts.values()}
    query = prompts.pop() if len(prompts) == 1 else ""
    for name, prompt in {"": "", "query": query, **encoder.query_prompts}.items():
        ours = encode_tokens(encoder, tokenise(encoder, texts, prompt), 1024)
        theirs = vectors(folder, texts, name)
        assert float((ours - theirs).abs().max() / ours.abs().max()) < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("is_framed", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_same_vectors(
    tmp_path: Path, name: str, is_framed: bool, pooling: str
) -> None:
    write, template = FAMILIES[name]
    write(tmp_path / "base")
    encoder = load(tmp_path / "base", pooling=pooling, template=template if is_framed else "{text}")
    assert saved(tmp_path / "tuned", encoder) is None
    check_same_vectors(tmp_path / "tuned", encoder, TEXTS)


@pytest.mark.parametrize("prompts", [{}, {"first": "find a caption like "}])
@pytest.mark.parametrize("template", ["{text}", "user: {text}<eos>", "<bos>say {text}"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_models_made_here_give_the_same_vectors(
    tmp_path: Path, template: str, prompts: dict[str, str], attention: str
) -> None:
    write_llm(tmp_path / "base", TEXTS[:2])
    encoder = load(tmp_path / "base", attention=attention, template=template, query_prompts=prompts)
    assert saved(tmp_path / "tuned", encoder) is None
    check_same_vectors(tmp_path / "tuned", encoder, TEXTS)


def test_of_several_prompts_each_goes_by_its_name(tmp_path: Path) -> None:
    write_llm(tmp_path / "base", TEXTS[:2])
    prompts = {"short_to_dense": "find the dense one:", "dense_to_short": "find the short one:"}
    encoder = load(tmp_path / "base", query_prompts=prompts)
    assert saved(tmp_path / "tuned", encoder) is None
    check_same_vectors(tmp_path / "tuned", encoder, TEXTS)


def test_one_ordinary_token_may_follow_the_text(tmp_path: Path) -> None:
    FAMILIES["llama3"][0](tmp_path / "base")
    encoder = load(tmp_path / "base", template="say {text}.")
    assert saved(tmp_path / "tuned", encoder) is None
    check_same_vectors(tmp_path / "tuned", encoder, TEXTS)


def test_the_flag_of_attention_counts_there_too(tmp_path: Path) -> None:
    write_llm(tmp_path / "base", TEXTS[:2])
    assert saved(tmp_path / "tuned", load(tmp_path / "base")) is None
    before = vectors(tmp_path / "tuned", TEXTS)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["is_causal"] is False
    (tmp_path / "tuned" / "config.json").write_text(json.dumps({**config, "is_causal": True}))
    assert float((vectors(tmp_path / "tuned", TEXTS) - before).abs().max()) > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_the_folder_loads_as_before_and_may_be_tuned_again(tmp_path: Path, name: str) -> None:
    write, template = FAMILIES[name]
    write(tmp_path / "base")
    encoder = load(tmp_path / "base", template=template)
    assert saved(tmp_path / "tuned", encoder) is None
    again = load(tmp_path / "tuned", template=template)
    assert tokenise(again, TEXTS, PROMPT) == tokenise(encoder, TEXTS, PROMPT)
    assert torch.equal(encode(again, TEXTS, 1024), encode(encoder, TEXTS, 1024))
    assert AutoModel.from_pretrained(tmp_path / "tuned").config.is_causal is False
    again.template = "{text}"
    assert saved(tmp_path / "twice", again) is None
    check_same_vectors(tmp_path / "twice", again, TEXTS)


def test_a_space_that_a_normaliser_prepends_is_kept(tmp_path: Path) -> None:
    # as in the tokenizer.json of Mistral 7B and Llama 2: no pre-tokeniser
    FAMILIES["mistral"][0](tmp_path / "base")
    path = tmp_path / "base" / "tokenizer.json"
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, space]}
    tree = json.loads(path.read_text()) | {"pre_tokenizer": None, "normalizer": normalizer}
    path.write_text(json.dumps(tree))
    encoder = load(tmp_path / "base")
    for folder in ("tuned", "twice"):
        assert saved(tmp_path / folder, encoder) is None
        check_same_vectors(tmp_path / folder, encoder, TEXTS)
        encoder = load(tmp_path / folder)


@pytest.mark.parametrize("template", ["{text}", "<s>user: {text}</s>"])
def test_a_released_model_gives_the_same_vectors(tmp_path: Path, shared: Path, template: str) -> None:
    encoder = load(shared / "data" / "models" / "stories260K", template=template)
    assert saved(tmp_path, encoder) is None
    check_same_vectors(tmp_path, encoder, TEXTS)


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    write_llm(tmp_path / "base", TEXTS[:2])
    digests = []
    for name in ("one", "two"):
        encoder = load(tmp_path / "base", template="user: {text}<eos>")
        encode(encoder, TEXTS, 512)  # leaves a cut behind in the tokenizer
        assert saved(tmp_path / name, encoder) is None
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.append([(path.name, sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1]
    assert {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"} <= {
        name for name, _ in digests[0]
    }


def test_a_text_that_nothing_is_left_of_is_zeros_there(tmp_path: Path) -> None:
    write_llm(tmp_path / "base", TEXTS[:2])
    assert saved(tmp_path / "tuned", load(tmp_path / "base")) is None
    assert not vectors(tmp_path / "tuned", ["\u00a0 \u2003"]).any()
    assert encode(load(tmp_path / "base"), ["\u00a0 \u2003"], 64).any()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("footer", "the template ends in 2 tokens"),
        ("normalizer", "other tokens for the short_to_dense"),
        ("special", "names no special token to pad with"),
    ],
)
def test_what_cannot_be_said_is_named_and_nothing_is_written(
    tmp_path: Path, fault: str, message: str
) -> None:
    FAMILIES["qwen3"][0](tmp_path / "base")
    template = "<|im_start|>user\n{text}<|im_end|>\n" if fault == "footer" else "{text}"
    encoder = load(tmp_path / "base", template=template)
    backend = encoder.tokenizer.backend_tokenizer
    if fault == "normalizer":
        backend.normalizer = normalizers.Replace(Regex("(?<=.)A"), "b")  # minds what stands before
    if fault == "special":
        for name in ("pad_token", "eos_token"):
            setattr(encoder.tokenizer, name, None)
    encoder.model.save_pretrained(tmp_path / "tuned")  # type: ignore[operator]
    encoder.tokenizer.save_pretrained(tmp_path / "tuned")
    before = {path.name: path.read_bytes() for path in (tmp_path / "tuned").iterdir()}
    found = write_layout(tmp_path / "tuned", encoder)
    assert found is not None
    assert message in found
    assert {path.name: path.read_bytes() for path in (tmp_path / "tuned").iterdir()} == before
