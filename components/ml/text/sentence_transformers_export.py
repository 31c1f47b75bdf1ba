"""Export a text encoder as a sentence-transformers model that gives the same vectors.

The files name only modules of sentence-transformers, so neither this package nor remote code is needed. The
tokenizer of the folder does the rest (`frame_tokenizer`):

- It puts bos, template header and footer around a text, and a cut leaves them whole.
- A mean leaves out the tokens of a prompt, so each text gets a prompt: a mark that the tokenizer drops.
  sentence-transformers measures the length of a prompt by the tokens of the mark alone, which are header and
  footer, without a special token at their end. That is the length of the header if the footer is one token,
  which is then declared special, or none.
- A query prompt ends in the mark, across which no tokens merge.

`load_text_encoder` and AutoModel read the folder as before. A text that is empty after the tokenizer's
normaliser has the vector of an unknown token here; in sentence-transformers it has that of the footer, or
zeros.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer

from components.ml.text.encoder import TextEncoder, tokenise
from components.ml.text.template import wrap

POOLING = {"mean": "mean", "last": "lasttoken"}
# older versions would read a bidirectional model as a causal one
REQUIREMENTS = {"sentence-transformers": ">=6.2", "transformers": ">=5.2"}
READ_BY_TOKENIZER = ("config.json", "tokenizer.json", "tokenizer_config.json")
# for some model types AutoTokenizer builds its own class, whatever the files say; not for this type
AS_IT_IS, TYPE_AS_IT_IS = "TokenizersBackend", "granite"
NAMED_TOKENS = ("bos_token", "unk_token", "sep_token", "cls_token", "mask_token")
TOP, POOLING_FOLDER = "", "1_Pooling"
TYPES = {
    TOP: "sentence_transformers.base.modules.transformer.Transformer",
    POOLING_FOLDER: "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
}
MARK = "\ufdd0"  # a noncharacter, which no text holds
DROP = {"type": "Replace", "pattern": {"Regex": rf"\A{MARK}"}, "content": ""}
SPLIT = {"type": "Split", "pattern": {"String": MARK}, "behavior": "Removed", "invert": False}
FIRST, ALWAYS = '"prepend_scheme": "first"', '"prepend_scheme": "always"'
REBUILT = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
)  # settings that rebuild parts of the tokenizer


def write_layout(folder: Path, encoder: TextEncoder) -> str | None:
    """Write the files of sentence-transformers beside a saved model and tokenizer.

    Its vectors are the encoder's, un-normalised. A query prompt is chosen by its name (`prompt_name`), and a
    single one also by `encode_query`; other texts have no prompt. Token ids are compared before anything is
    written.

    Args:
        folder: Model and tokenizer as transformers saved them; the tokenizer's files are rewritten.
        encoder: The encoder that was saved there.

    Returns:
        None, or why sentence-transformers cannot give the same vectors; then the folder is not changed.
    """
    if not (folder / "tokenizer.json").is_file():
        return "the tokenizer is not saved as tokenizer.json"
    start, end = _frame(encoder)
    is_mean = encoder.pooling == "mean"
    prompts = _prompts(encoder, MARK if start and is_mean else "")
    if is_mean and len(end) > 1 and any(prompts.values()):
        return (
            f"the template ends in {len(end)} tokens, and sentence-transformers leaves a header out of the "
            "mean only where one token or none follows the text"
        )
    special = _special_token(encoder, end)
    if special is None:
        return "the tokenizer names no special token to pad with"
    settings = _tokenizer_settings(encoder, special)
    with TemporaryDirectory() as name:
        trial = Path(name)
        for file in READ_BY_TOKENIZER:
            shutil.copyfile(folder / file, trial / file)
        frame_tokenizer(trial, start, end)
        if type(_tokenizer(trial)).__name__ != AS_IT_IS:
            settings["tokenizer_type"] = TYPE_AS_IT_IS
        if difference := _difference(encoder, _tokenizer(trial), _tokenizer(trial, **settings), prompts):
            return difference
        for file in READ_BY_TOKENIZER[1:]:
            shutil.copyfile(trial / file, folder / file)
    _write_modules(folder, encoder, settings, prompts)
    return None


def _queries(encoder: TextEncoder) -> dict[str, str]:
    """Return the prompts of the encoder by the names that sentence-transformers uses."""
    prompts = {*encoder.query_prompts.values()}
    query = prompts.pop() if len(prompts) == 1 else ""
    return {**encoder.query_prompts, "document": "", "query": query}


def _frame(encoder: TextEncoder) -> tuple[list[int], list[int]]:
    """Return the tokens before and after a text in the template."""
    text = encoder.tokenizer("a", add_special_tokens=False)["input_ids"]
    (row,) = tokenise(encoder, ["a"])
    return [*row.ids[: row.text_start]], [*row.ids[row.text_start + len(text) :]]


def _prompts(encoder: TextEncoder, document: str) -> dict[str, str]:
    """Return the prompts for sentence-transformers by name.

    A normaliser that strips the end of a text does not strip it before the mark.
    """
    marked = {"": document}
    for prompt in encoder.query_prompts.values():
        stripped = prompt.rstrip()
        tokens, stripped_tokens = (
            encoder.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, stripped)
        )
        marked[prompt] = (stripped if tokens == stripped_tokens else prompt) + MARK
    return {name: marked[prompt] for name, prompt in _queries(encoder).items()}


def _special_token(encoder: TextEncoder, end: list[int]) -> str | None:
    """Return the token to declare special: the footer, or one that ends no header or prompt."""
    tokenizer = encoder.tokenizer
    rows = [tokenise(encoder, ["a"], prompt)[0] for prompt in _queries(encoder).values()]
    last = {row.ids[row.text_start - 1] for row in rows if row.text_start}
    special_ids = (
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        tokenizer.unk_token_id,
        tokenizer.bos_token_id,
    )
    candidates = (
        end if len(end) == 1 else [token for token in special_ids if token is not None and token not in last]
    )
    return str(tokenizer.convert_ids_to_tokens(candidates[0])) if candidates else None


def _tokenizer_settings(encoder: TextEncoder, special: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(NAMED_TOKENS),
        "pad_token": special,
        "eos_token": special,
        "extra_special_tokens": [],
        "split_special_tokens": True,  # special tokens in a text are plain text
        "model_max_length": encoder.max_tokens,
        "padding_side": "right",  # sentence-transformers counts positions over padding as well
        "truncation_side": "right",
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _difference(encoder: TextEncoder, framed: Any, exported: Any, prompts: dict[str, str]) -> str | None:  # noqa: ANN401
    """Return how the rewritten tokenizer differs from the encoder, in either library, or None."""
    texts = _probes(encoder)
    for name, query in _queries(encoder).items():
        expected = tokenise(encoder, texts, query)
        if wrap(framed, texts, encoder.template, query, encoder.max_tokens) != expected:
            return f"with the template in tokenizer.json this package would read a {name} otherwise"
        exported_ids = exported([prompts[name] + text for text in texts], truncation=True)["input_ids"]
        for text, row, ids in zip(texts, expected, exported_ids, strict=True):
            if ids != [*row.ids]:
                return f"its tokenizer would give other tokens for the {name} {text!r:.60}"
        prompt_ids = exported(prompts[name])["input_ids"] if prompts[name] else []
        left_out = len(prompt_ids) - (bool(prompt_ids) and prompt_ids[-1] in exported.all_special_ids)
        if encoder.pooling == "mean" and left_out != expected[0].text_start:
            return (
                f"of a {name} it would leave {left_out} tokens out of the mean, not {expected[0].text_start}"
            )
    return None


def _probes(encoder: TextEncoder) -> list[str]:
    return [
        "A red circle.",
        "  two\tspaces before, one after ",
        "\nline\n\nbreaks",
        "'s 12345 (and) so: on",
        "a \U0001f469\u200d\U0001f467 \u0645\u0631\u062d\u0628\u0627 \u0301e \u6f22\u5b57",
        f"a {' '.join(encoder.tokenizer.all_special_tokens)} {encoder.template} b",
        "long words and more of them " * encoder.max_tokens,
    ]


def _tokenizer(folder: Path, **settings: Any) -> Any:  # noqa: ANN401
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **settings)


def _write_modules(
    folder: Path, encoder: TextEncoder, settings: dict[str, Any], prompts: dict[str, str]
) -> None:
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(TYPES.items())
    ]
    pooling = {"embedding_dimension": encoder.dimension, "pooling_mode": POOLING[encoder.pooling]}
    config = {
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": "document" if prompts["document"] else None,
        "similarity_fn_name": "cosine",
        "requirements": REQUIREMENTS,
    }
    (folder / POOLING_FOLDER).mkdir(exist_ok=True)
    for name, tree in (
        ("modules.json", modules),
        ("sentence_bert_config.json", {"processor_kwargs": settings}),
        (f"{POOLING_FOLDER}/config.json", {**pooling, "include_prompt": False}),
        ("config_sentence_transformers.json", config),
    ):
        (folder / name).write_text(f"{json.dumps(tree, indent=2, sort_keys=True)}\n", "utf-8")


def frame_tokenizer(folder: Path, start: list[int], end: list[int]) -> None:
    """Rewrite a saved tokenizer so that it puts tokens around each text and handles the mark.

    A mark at the start of a text is dropped. After a mark inside a text, the text is tokenised as if it began
    there.

    Args:
        folder: Folder with tokenizer.json and tokenizer_config.json.
        start: Token ids before each text, if special tokens are added.
        end: Token ids after each text, if special tokens are added.
    """
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text("utf-8"))
    normalizers = [part for part in _parts(tree["normalizer"], "normalizers") if part != DROP]
    pre_tokenizers = [part for part in _parts(tree["pre_tokenizer"], "pretokenizers") if part != SPLIT]
    # a prefix of a text's first word is also needed before the first word after a mark
    after_mark = [_after_mark(part) for part in normalizers if part["type"] == "Prepend"]
    pre_tokenizers = json.loads(json.dumps(pre_tokenizers).replace(FIRST, ALWAYS))
    tree |= {
        "truncation": None,
        "padding": None,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [DROP, *(part for part in normalizers if part not in after_mark), *after_mark],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, *pre_tokenizers]},
        "post_processor": _post_processor(tree, start, end),
    }
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False), "utf-8")
    path = folder / "tokenizer_config.json"
    config = {
        name: value for name, value in json.loads(path.read_text("utf-8")).items() if name not in REBUILT
    }
    # the tokenizer class of a model family would rebuild all but the vocabulary
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


def _post_processor(tree: dict[str, Any], start: list[int], end: list[int]) -> dict[str, Any]:
    """Return the post-processor that puts tokens before and after a text."""
    vocabulary = tree["model"]["vocab"]
    if isinstance(vocabulary, dict):
        words = {token_id: word for word, token_id in vocabulary.items()}
    else:  # Unigram: words with their scores, by id
        words = {token_id: word for token_id, (word, _) in enumerate(vocabulary)}
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
            name: {"id": name, "ids": ids, "tokens": [words[token] for token in ids]}
            for name, ids in frame.items()
        },
    }
