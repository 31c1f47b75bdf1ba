"""Each family by a tiny model of random weights, written as the hub has it and loaded by the true path."""

from __future__ import annotations

import json
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.ml.captioning.generate import Answer, Batches, Question, SeededDraws, answers
from components.ml.captioning.vlm import (
    VisionLanguage,
    load_processor,
    load_vision_language,
    model_inputs,
    question_text,
)
from components.ml.vision.pictures import decode_rgb
from tests.vision_language import FAMILIES

SIZES = [
    (64, 40),
    (40, 80),
    (64, 64),
]  # width and height: the families make different numbers of tokens of them
PROMPTS = {"florence2": ["<CAPTION>", "<MORE_DETAILED_CAPTION>"]}
OTHERS = ["describe the image", "describe the red circle, the dogs and the green grass of the image"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    return request.param, folder


@pytest.fixture(scope="module")
def asked(family: tuple[str, Path]) -> VisionLanguage:
    return load_vision_language(family[1])


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def questions(family: str) -> list[Question]:
    noise = np.random.default_rng(0)
    found = []
    for number, (width, height) in enumerate(SIZES):
        pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels[:, : width // 2] = 80 * number
        for prompt, tokens in zip(PROMPTS.get(family, OTHERS), (6, 10), strict=True):
            found.append(Question(png(Image.fromarray(pixels)), prompt, tokens, seed=1000 * number + tokens))
    return found


def written(
    asked: VisionLanguage, some: list[Question], batch_tokens: int, temperature: float
) -> list[Answer]:
    found = dict(answers(asked, some, Batches(batch_tokens, 2), temperature))
    return [found[number] for number in range(len(some))]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_depends_on_no_neighbour(
    family: tuple[str, Path], asked: VisionLanguage, temperature: float
) -> None:
    some = questions(family[0])
    alone = written(asked, some, 1, temperature)
    assert alone == written(asked, some, 100_000, temperature)
    assert alone[::-1] == written(asked, some[::-1], 300, temperature)
    assert len({answer.text for answer in alone}) > 2  # images and prompts make a difference


def test_threads_change_no_answer(family: tuple[str, Path], asked: VisionLanguage) -> None:
    some = questions(family[0]) * 3
    one, many = (list(answers(asked, some, Batches(300, threads), 1.0)) for threads in (1, 4))
    assert one == many


def test_photographs_are_captioned(family: tuple[str, Path], asked: VisionLanguage, shared: Path) -> None:
    files = sorted((shared / "data" / "coco_mini" / "images").iterdir())[:2]
    (prompt, *_) = PROMPTS.get(family[0], OTHERS)
    some = [Question(file.read_bytes(), prompt, 8, number) for number, file in enumerate(files)]
    for temperature in (0.0, 1.0):
        one, two = (written(asked, some, tokens, temperature) for tokens in (1, 100_000))
        assert one == two
        assert one[0].text != one[1].text


def test_a_model_loaded_again_answers_the_same(family: tuple[str, Path], asked: VisionLanguage) -> None:
    some = questions(family[0])
    again = load_vision_language(family[1])
    for temperature in (0.0, 1.0):
        assert written(again, some, 500, temperature) == written(asked, some, 500, temperature)


def test_likeliest_tokens_are_those_of_generate(family: tuple[str, Path], asked: VisionLanguage) -> None:
    """The plain way of transformers' documentation: processor, generate, decode what is new."""
    question = questions(family[0])[1]
    text = question_text(asked, question.prompt)
    inputs = model_inputs(asked, decode_rgb(question.image), text)
    config = asked.model.generation_config  # handed over, for BLIP-2 takes its language model's otherwise
    ids = asked.model.generate(**inputs, generation_config=config, max_new_tokens=question.max_new_tokens)
    new = ids if asked.model.config.is_encoder_decoder else ids[:, inputs["input_ids"].shape[1] :]
    (expected,) = asked.processor.batch_decode(new, skip_special_tokens=True)
    assert written(asked, [question], 500, 0.0)[0].text == expected


def test_the_image_stands_in_the_text_once(family: tuple[str, Path], asked: VisionLanguage) -> None:
    token = asked.processor.tokenizer.convert_tokens_to_ids(
        str(getattr(asked.processor.image_token, "content", asked.processor.image_token))
    )
    for question in questions(family[0]):
        ids = model_inputs(asked, decode_rgb(question.image), question_text(asked, question.prompt))[
            "input_ids"
        ][0]
        places = (ids == token).nonzero().flatten()
        assert len(places) and places[-1] - places[0] < 1.5 * len(places)  # one run, but for ends of lines


def test_a_cut_answer_says_so(family: tuple[str, Path], asked: VisionLanguage) -> None:
    (question, *_) = questions(family[0])
    one = Question(question.image, question.prompt, 1, 0)
    (answer,) = written(asked, [one], 500, 0.0)
    long = written(asked, [Question(question.image, question.prompt, 40, 0)], 500, 0.0)[0]
    assert answer.is_cut == (long.text != "")
    assert long.text.startswith(answer.text)


def test_a_bf16_model_writes(family: tuple[str, Path]) -> None:
    asked = load_vision_language(family[1], "bf16")
    assert {weights.dtype for weights in asked.model.parameters()} == {torch.bfloat16}
    assert len(written(asked, questions(family[0]), 400, 0.0)) == len(SIZES) * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_writes_the_same_again(family: tuple[str, Path]) -> None:
    asked = load_vision_language(family[1], "bf16", "cuda")
    for temperature in (0.0, 1.0):
        first, again = (written(asked, questions(family[0]), 400, temperature) for _ in range(2))
        assert first == again


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    FAMILIES["llava"](tmp_path)
    return tmp_path


def test_without_a_chat_template_the_image_comes_first(llava: Path) -> None:
    (llava / "chat_template.jinja").unlink()
    asked = load_vision_language(llava)
    assert question_text(asked, "describe") == "<image>\ndescribe"
    assert question_text(asked, "USER: <image> describe ASSISTANT:") == "USER: <image> describe ASSISTANT:"


def test_a_chat_template_of_the_tokenizer_is_taken_too(llava: Path) -> None:
    (llava / "chat_template.jinja").rename(llava / "kept")
    settings = json.loads((llava / "tokenizer_config.json").read_text())
    settings["chat_template"] = (llava / "kept").read_text()
    (llava / "tokenizer_config.json").write_text(json.dumps(settings))
    (llava / "kept").unlink()
    assert question_text(load_vision_language(llava), "describe") == "USER: <image>\ndescribe ASSISTANT:"


def test_a_chat_template_that_forgets_the_image_is_refused(llava: Path) -> None:
    (llava / "chat_template.jinja").write_text("{{ messages[0].content[1].text }}")
    with pytest.raises(ValueError, match="'describe' without the image token <image>"):
        question_text(load_vision_language(llava), "describe")


def test_code_beside_a_model_is_never_run(llava: Path, tmp_path: Path) -> None:
    config = json.loads((llava / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (llava / "config.json").write_text(json.dumps(config))
    (llava / "mine.py").write_text(f"open({str(tmp_path / 'fired')!r}, 'w')")
    with pytest.raises(ValueError, match="holds no processor that loads"):
        load_processor(llava)
    assert not (tmp_path / "fired").exists()


def test_a_language_model_is_none(llava: Path) -> None:
    config = json.loads((llava / "config.json").read_text())
    (llava / "config.json").write_text(json.dumps(config["text_config"] | {"model_type": "llama"}))
    with pytest.raises(ValueError, match="type llama does not turn images and text into text"):
        load_processor(llava)


@pytest.mark.parametrize("damage", ["missing", "nan", "pickle"])
def test_damaged_weights_are_refused(llava: Path, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    path = llava / "model.safetensors"
    weights = load_file(path)
    if damage == "missing":
        weights = {name: tensor for name, tensor in weights.items() if "lm_head.weight" not in name}
    if damage == "nan":
        weights["language_model.lm_head.weight"][0, 0] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    if damage == "pickle":
        path.unlink()
        torch.save(weights, llava / "pytorch_model.bin")
    with pytest.raises(ValueError, match="lm_head.weight|holds no vision-language model that loads"):
        load_vision_language(llava)


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    rows, temperature = 20_000, 0.5
    draws = SeededDraws(list(range(rows)), 1, temperature)(torch.zeros(rows, 0), logits.repeat(rows, 1))
    counts = Counter(draws.argmax(1).tolist())
    expected = (logits[0] / temperature).softmax(-1)
    assert counts[3] == 0
    for token in range(3):
        assert counts[token] / rows == pytest.approx(float(expected[token]), abs=0.015)


def test_a_draw_is_of_its_seed_alone() -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).repeat(2, 1)
    draws = SeededDraws([5, 6, 7, 5, 6, 8], 2, 1.0)
    first, second = draws(torch.zeros(6, 0), scores), draws(torch.zeros(6, 1), scores)
    for step in (first, second):
        assert torch.equal(step[:2], step[3:5])
    alone = SeededDraws([6], 2, 1.0)
    assert torch.equal(alone(torch.zeros(1, 0), scores[1:2]), first[1:2])
    assert torch.equal(alone(torch.zeros(1, 1), scores[1:2]), second[1:2])
