"""A tokenizer.json that puts the tokens of a template around each text, and drops a mark from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MARK = "\ufdd0"  # a noncharacter, which no text holds
DROP = {"type": "Replace", "pattern": {"Regex": rf"\A{MARK}"}, "content": ""}
SPLIT = {"type": "Split", "pattern": {"String": MARK}, "behavior": "Removed", "invert": False}
FIRST, ALWAYS = '"prepend_scheme": "first"', '"prepend_scheme": "always"'
REBUILT = ("add_bos_token", "add_eos_token", "add_prefix_space")  # settings that build parts of it anew


def frame_tokenizer(folder: Path, start: list[int], end: list[int]) -> None:
    """Rewrite a saved tokenizer.

    A mark at the start of a text is dropped; in its midst it is as if the text began anew after it.

    Args:
        folder: Holds tokenizer.json and tokenizer_config.json.
        start: Token ids before each text, where special tokens are asked for.
        end: Those after it.
    """
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text("utf-8"))
    normalizers = [one for one in _parts(tree["normalizer"], "normalizers") if one != DROP]
    pre_tokenizers = [one for one in _parts(tree["pre_tokenizer"], "pretokenizers") if one != SPLIT]
    # what comes before a text's first word comes before the first one after a mark as well
    again = [_after_mark(one) for one in normalizers if one["type"] == "Prepend"]
    pre_tokenizers = json.loads(json.dumps(pre_tokenizers).replace(FIRST, ALWAYS))
    tree |= {
        "truncation": None,
        "padding": None,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [DROP, *(one for one in normalizers if one not in again), *again],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, *pre_tokenizers]},
        "post_processor": _around(tree, start, end),
    }
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False), "utf-8")
    path = folder / "tokenizer_config.json"
    config = {
        name: value for name, value in json.loads(path.read_text("utf-8")).items() if name not in REBUILT
    }
    # the class of a family would build all but the vocabulary anew
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(f"{json.dumps(config, indent=2, sort_keys=True)}\n", "utf-8")


def _parts(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    parts: list[dict[str, Any]] = part[name] if part["type"] == "Sequence" else [part]
    return parts


def _after_mark(prepend: dict[str, Any]) -> dict[str, Any]:
    content = f"{MARK}{prepend['prepend']}"
    return {"type": "Replace", "pattern": {"Regex": rf"{MARK}(?!\z)"}, "content": content}


def _around(tree: dict[str, Any], start: list[int], end: list[int]) -> dict[str, Any]:
    """Return the post-processor that puts tokens before and after a text."""
    vocabulary = tree["model"]["vocab"]
    if isinstance(vocabulary, dict):
        words = {number: word for word, number in vocabulary.items()}
    else:  # of Unigram: words with their scores, by number
        words = {number: word for number, (word, _) in enumerate(vocabulary)}
    words |= {token["id"]: token["content"] for token in tree["added_tokens"]}
    frame = {name: ids for name, ids in (("<start>", start), ("<end>", end)) if ids}
    before, after = (
        [{"SpecialToken": {"id": name, "type_id": 0}}] if name in frame else []
        for name in ("<start>", "<end>")
    )
    single = [*before, {"Sequence": {"id": "A", "type_id": 0}}, *after]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            name: {"id": name, "ids": ids, "tokens": [words[one] for one in ids]}
            for name, ids in frame.items()
        },
    }
