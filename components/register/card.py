"""Write the model card of a release: what it is, its use, its training data and its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.storage.atomic import read_json

USE = """```python
import llm2clip

model = llm2clip.load(".")  # this folder
images = model.embed_images(["picture.jpg"])  # (1, D), rows of length 1
texts = model.embed_texts(["a red circle", "zwei blaue Quadrate"])  # (2, D)
probabilities = (model.logit_scale * images @ texts.T).softmax(dim=1)
```"""
ON_A_GPU = """`llm2clip.load(".", "cuda", "bf16")` needs half the memory for the language model."""
PLAIN_VISION = """The vision tower alone loads with plain transformers:

```python
from transformers import AutoImageProcessor, {kind}

vision_encoder = {kind}.from_pretrained("vision_encoder")
processor = AutoImageProcessor.from_pretrained("vision_encoder", backend="pil")
```"""
PLAIN = {"clip_vision_model": "CLIPVisionModelWithProjection", "siglip_vision_model": "SiglipVisionModel"}
OWN_VISION = """The vision tower alone, `vision_encoder/`, loads by
`components.ml.vision.towers.load_vision_encoder`. Its model type is one of this pipeline,
which plain transformers refuses to load."""
OWN_TEXT = """This is a control: a CLIP that keeps its own text tower, in `clip/`."""
LLM_TEXT = """`vision_encoder/` is CLIP's vision tower, trained whole. `llm/` is the language model, frozen
while the tower learned; `encoding.json` says how it reads a text. `text_adapter/` brings its vectors to the
space of the tower."""


def model_card(folder: Path, lineage: dict[str, Any], metrics: dict[str, Any], licence: str) -> str:
    """Return the card as Markdown.

    Args:
        folder: Of the release, with its models.
        lineage: As `lineage_of` returned it.
        metrics: Metrics of evaluate, all arms.
        licence: From params.
    """
    about = read_json(folder / "model.json")
    has_own_text = about["text"] == "own"
    return "\n\n".join(
        [
            "---\npipeline_tag: zero-shot-image-classification\ntags: [llm2clip]\n---",
            f"# {lineage['name']}",
            "Images and texts as vectors of one space, by LLM2CLIP (arXiv 2411.04997): a large language "
            "model in the place of CLIP's text tower. "
            f"Arm `{lineage['arm']}` of preset `{lineage['preset']}`; release.json has version and lineage.",
            OWN_TEXT if has_own_text else LLM_TEXT,
            "## Use",
            "With this pipeline's package installed:",
            USE,
            *([] if has_own_text else [ON_A_GPU, vision_text(folder)]),
            "## Training data",
            _data(lineage, about),
            "## Results on the test split",
            "Recall in percent, with the interval over resampled images. The other arms are controls, chance "
            "is what guessing reaches.",
            _table(metrics["arms"], lineage["arm"]),
            "## Licence",
            licence,
            "",
        ]
    )


def vision_text(folder: Path) -> str:
    """Return how to use the vision tower of a release by itself."""
    kind = read_json(folder / "vision_encoder" / "config.json")["model_type"]
    return PLAIN_VISION.format(kind=PLAIN[kind]) if kind in PLAIN else OWN_VISION


def _data(lineage: dict[str, Any], about: dict[str, Any]) -> str:
    data = lineage["data"]
    mix = lineage["params"]["train_clip"]["caption_mix"]
    drawn = ", ".join(f"{column} {share:g}" for column, share in mix.items())
    return (
        f"Sources: {', '.join(data['sources'])}. {data['images']} images of all splits, of which the audit "
        f"kept {data['images_kept']}. {about['steps']} steps on the train split; captions drawn as {drawn}."
    )


def _table(arms: dict[str, Any], registered: str) -> str:
    recalls = _recalls(arms[registered])
    head = ["task", "direction", "arm", *(name.replace("recall_at_", "R@") for name in recalls), "chance R@1"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for task, directions in arms[registered]["retrieval"].items():
        for direction in directions:
            for arm in [registered, *(name for name in arms if name != registered)]:
                figures = arms[arm]["retrieval"][task][direction]
                name = f"**{arm}**" if arm == registered else arm
                cells = [task, direction.replace("_", " "), name, *(_cell(figures[k]) for k in recalls)]
                lines.append(f"| {' | '.join(cells)} | {_percent(figures[recalls[0]]['chance'])} |")
    return "\n".join(lines)


def _recalls(arm: dict[str, Any]) -> list[str]:
    """Return `recall_at_1`, `recall_at_5`, ... by their number."""
    first = next(iter(next(iter(arm["retrieval"].values())).values()))
    return sorted(first, key=lambda name: int(name.rpartition("_")[2]))


def _cell(figure: dict[str, float]) -> str:
    return f"{_percent(figure['value'])} [{_percent(figure['low'])}, {_percent(figure['high'])}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
