"""Load and check params.yaml, always as a whole, for every stage."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tokens import AliasToken, AnchorToken

from components.errors import ConfigurationError
from components.settings.audit import Audit
from components.settings.base_models import BaseModels
from components.settings.download import Download
from components.settings.embed_captions import EmbedCaptions, SentenceTransformersModel
from components.settings.evaluate import Evaluate
from components.settings.recaption import Recaption, VisionLanguageCaptioner, VllmCaptioner
from components.settings.register import Register
from components.settings.section import Name, Section, Seed
from components.settings.train_clip import TrainClip
from components.settings.tune_llm import TuneLlm

MAX_PARAMS_BYTES = 1_000_000
SECRET = re.compile(r"\b(AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,})|://[^\s/:@]+:[^\s/@]+@")


# `register` also names a method that every abstract class has and that nothing here uses
warnings.filterwarnings("ignore", message='Field name "register" in "Params" shadows', category=UserWarning)


class Params(Section):
    """Every value that can change a result."""

    preset: Name
    seed: Seed
    download: Download
    base_models: BaseModels
    recaption: Recaption
    audit: Audit
    tune_llm: TuneLlm
    embed_captions: EmbedCaptions
    train_clip: TrainClip
    evaluate: Evaluate
    register: Register = Field()  # explicit, because otherwise the method would be the default

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        arms = {arm.name: arm for arm in self.train_clip.arms}
        if len(arms) != len(self.train_clip.arms):
            raise ValueError("train_clip.arms has two arms of one name")
        if self.register.arm not in arms:
            raise ValueError(f"register.arm is {self.register.arm}; expected one of {', '.join(arms)}")
        for arm in arms.values():
            if arm.text != "own" and arm.text not in self.embed_captions.names:
                raise ValueError(f"arm {arm.name} needs {arm.text} in embed_captions.llms or others")
            if (arm.text == "own") != (arm.context_tokens is not None):
                raise ValueError(f"arm {arm.name}: context_tokens is for text `own`, and needed there")
        if self.train_clip.false_negative_cosine is not None and "tuned" not in self.embed_captions.llms:
            raise ValueError("train_clip.false_negative_cosine needs tuned in embed_captions.llms")
        if self.audit.curation.needs_scores and self.recaption.scores is None:
            raise ValueError("audit.curation of images needs recaption.scores, which is null")
        return self

    @model_validator(mode="after")
    def _encoders_have_their_models(self) -> Self:
        models = [model.name for model in self.base_models.text_encoders]
        for encoder in self.embed_captions.others:
            if isinstance(encoder, SentenceTransformersModel) and encoder.model not in models:
                raise ValueError(
                    f"embed_captions.others {encoder.name} needs {encoder.model} in base_models.text_encoders"
                )
        text = {arm.name: arm.text for arm in self.train_clip.arms}.get(self.register.arm)
        if text in [encoder.name for encoder in self.embed_captions.others]:
            raise ValueError(
                f"register.arm is {self.register.arm}, whose texts {text} embeds; expected an arm of tuned, "
                "base or own: a release holds no text encoder of others"
            )
        return self

    @model_validator(mode="after")
    def _captioners_have_their_models(self) -> Self:
        models = [model.name for model in self.base_models.vision_language]
        for captioner in self.recaption.captioners:
            if (
                isinstance(captioner, VisionLanguageCaptioner | VllmCaptioner)
                and captioner.model not in models
            ):
                raise ValueError(
                    f"captioner {captioner.name} needs {captioner.model} in base_models.vision_language"
                )
        return self


def load_params(path: Path) -> Params:
    """Read and check a params file.

    Raises:
        ConfigurationError: the file is missing or unreadable, or a value is unknown, of a wrong type or out
            of range. The message explains the first error, and names every other key with its line.
    """
    tree = _parse(path)
    try:
        return Params.model_validate(_plain(tree))
    except ValidationError as error:
        details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        first, *others = [dict(detail) for detail in details]
        message = f"{_explain(path, tree, first)}{_list_keys(tree, others)}"
        raise ConfigurationError(message) from None


def located(path: Path, location: Sequence[str | int]) -> str:
    """Return the file, line and name of a key, for a message: `params.yaml:31: download.sources.0.path`.

    Args:
        path: A params file that has been loaded before.
        location: The keys that lead to it.
    """
    return f"{path}:{_line(_parse(path), list(location))}: {'.'.join(map(str, location))}"


def _parse(path: Path) -> CommentedMap:
    if not path.is_file():
        raise ConfigurationError(f"{path} not found: start in the project's folder, or `llm2clip use demo`")
    data = path.read_bytes()
    if len(data) > MAX_PARAMS_BYTES:
        raise ConfigurationError(
            f"{path} has {len(data)} bytes, more than {MAX_PARAMS_BYTES}: not a params file"
        )
    try:
        text = data.decode("utf-8-sig")
        tree = YAML(typ="rt").load(text)
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigurationError(f"{where} is not valid YAML: {problem}") from None
    if not isinstance(tree, CommentedMap):
        raise ConfigurationError(f"{path} is empty or not a mapping: expected one section per stage")
    for token in YAML(typ="rt").scan(text):
        if isinstance(token, AnchorToken | AliasToken):
            line = token.start_mark.line + 1
            raise ConfigurationError(f"{path}:{line} uses a YAML anchor or alias: write the values out")
    if secret := SECRET.search(text):
        line = text[: secret.start()].count("\n") + 1
        raise ConfigurationError(f"{path}:{line} holds what looks like a secret: put it in the environment")
    return tree


def _plain(node: Any) -> Any:  # noqa: ANN401 - a YAML tree
    """Convert ruamel's round-trip types to plain ones, as pydantic's strict mode requires."""
    if isinstance(node, CommentedMap):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _explain(path: Path, tree: CommentedMap, detail: dict[str, Any]) -> str:
    location = _location(tree, detail["loc"])
    dotted = ".".join(str(part) for part in location)
    where = f"{path}:{_line(tree, location)}"
    if detail["type"] == "extra_forbidden":
        matches = difflib.get_close_matches(str(location[-1]), _known_keys(location[:-1]), n=1, cutoff=0.5)
        hint = f"did you mean {matches[0]}?" if matches else "remove it"
        return f"{where}: unknown key {dotted}; {hint}"
    if not location:
        return f"{path}: {detail['msg'].removeprefix('Value error, ')}"
    if detail["type"] == "missing":
        return f"{where}: {dotted} is missing; every value is written out, see presets/demo.yaml"
    return f"{where}: {dotted} is {detail['input']!r:.80}; {detail['msg'][:1].lower()}{detail['msg'][1:]}"


KINDS = {"missing": "missing as well", "extra_forbidden": "unknown as well"}


def _list_keys(tree: CommentedMap, details: list[dict[str, Any]]) -> str:
    """Return a line that lists the keys of errors by kind of error; empty without errors."""
    by_kind: dict[str, dict[str, None]] = {}
    for detail in details:
        location = _location(tree, detail["loc"])
        name = ".".join(str(part) for part in location) or detail["msg"].removeprefix("Value error, ")
        where = "" if detail["type"] == "missing" else f" (line {_line(tree, location)})"
        by_kind.setdefault(KINDS.get(detail["type"], "wrong as well"), {})[f"{name}{where}"] = None
    lines = [f"{kind}: {', '.join(names)}" for kind, names in by_kind.items()]
    return f"\n{'; '.join(lines)}" if lines else ""


def _location(tree: Any, location: tuple[Any, ...]) -> list[Any]:  # noqa: ANN401 - a YAML tree
    """Return pydantic's location without the tags of unions, which are not keys in the file."""
    node, keys = tree, []
    for number, step in enumerate(location):
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            if number < len(location) - 1:
                continue
        keys.append(step)
    return keys


def _line(tree: Any, location: list[Any]) -> int:  # noqa: ANN401
    node, line = tree, 1
    for step in location:
        if isinstance(node, CommentedMap) and step in node:
            line = node.lc.key(step)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(step, int) and step < len(node):
            line = node.lc.item(step)[0] + 1
        else:
            break
        node = node[step]
    return int(line)


def _known_keys(location: list[Any]) -> list[str]:
    models: list[type[BaseModel]] = [Params]
    for step in location:
        if isinstance(step, int):
            continue
        models = [
            part
            for model in models
            if step in model.model_fields
            for part in _models_in(model.model_fields[step].annotation)
        ]
    return sorted({key for model in models for key in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - a type expression
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
