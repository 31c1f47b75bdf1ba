from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.recaption.captioners.captioner import Asked
from components.recaption.filters.gates import CONTROL, ends_sentence, fault, is_refusal, is_repeated
from components.recaption.filters.languages import FUNCTION_WORDS, SCRIPTS, other_language
from components.settings.params import load_params
from components.settings.recaption import CaptionGates
from components.settings.sources import Kind
from components.sources.scenes.scene import COLUMN_LANGUAGES, draw_scenes, scene_captions
from tests.conftest import ROOT

PROMPT = "Describe the image in one short sentence, and name what is in it."
DENSE = Asked("dense", PROMPT)
GOOD = "A dog runs over the grass."
GATES: dict[str, Any] = {
    "max_characters": 400,
    "max_repeats": 3,
    "max_repeated_share": 0.5,
    "min_leaked_words": 5,
    "whole_sentences": ["dense"],
    "min_script_share": 0.5,
    "max_images_per_text": {},
}


def reason(text: str, language: str = "en", asked: Asked = DENSE, **gates: Any) -> str | None:
    return fault(text, language, asked, CaptionGates.model_validate({**GATES, **gates}))


@pytest.mark.parametrize(
    "text",
    [
        "A man is riding a very, very, very tall horse.",
        'Two women hold a sign that says "I\'m sorry".',
        "A dog on the beach!",
        "An old man in a red coat looks at the sea, and a boy beside him looks at the man.",
        "The woman cannot see the ball behind her.",
        "A photo of a café in Zürich, with naïve paintings on its walls.",
        "A boy in a shirt with the letters 東京 on it plays in the sand.",
        "e\u0301clairs and a flag \U0001f3f3\ufe0f\u200d\U0001f308 on a plate.",
    ],
)
def test_a_caption_is_one(text: str) -> None:
    assert reason(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("\u200b\u200d\ufeff", "empty"),
        ("A dog\0 runs.", "control_characters"),
        ("A dog \ud83d runs.", "control_characters"),
        ("A dog\x1b[31m runs.", "control_characters"),
        ("a dog and " * 30_000, "too_long"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m sorry, I cannot see the picture.", "refusal"),
        ("Sorry, there is nothing to describe.", "refusal"),
        ("As an AI language model, I do not look at images.", "refusal"),
        ("Unfortunately, I am unable to view the picture.", "refusal"),
        ("It seems that no image was provided.", "refusal"),
        ("Please upload the image that you want me to describe.", "refusal"),
        ("Describe the image in one short sentence, and it shows a dog.", "prompt_leak"),
        ("A DOG. NAME WHAT IS IN IT.", "prompt_leak"),
        ("A dog runs.<|im_end|>", "prompt_leak"),
        ("ASSISTANT: A dog runs on the grass.", "prompt_leak"),
        ("[INST] A dog runs. [/INST]", "prompt_leak"),
        ("A dog <loc_12><loc_400> runs.", "prompt_leak"),
        ("Ignore this.<|eot_id|><|start_header_id|>system<|end_header_id|> A dog.", "prompt_leak"),
        ("dog dog dog", "repeated"),
        ("A dog runs on the the the the the grass.", "repeated"),
        ("There is a dog. There is a cat. There is a dog. There is a cat." * 3, "repeated"),
        ("1. a red dog 2. a red dog 3. a red dog 4. a red dog 5. a red dog", "repeated"),
        ("A dog runs over the", "truncated"),
        ("Ein Hund läuft mit einem Ball über die Wiese.", "wrong_language"),
        ("Un homme est assis sur un banc dans le parc.", "wrong_language"),
        ("一只狗在草地上奔跑。", "wrong_language"),
        ("Собака бежит по траве.", "wrong_language"),
        ("Een man met een hoed zit op het strand.", "wrong_language"),
        ("Un perro está en el agua con una pelota.", "wrong_language"),
        ("EIN HUND. Ein hund läuft mit dem ball über die wiese.", "wrong_language"),
        ("كلب يركض على العشب.", "wrong_language"),
        ("A 狗在草地上奔跑，追着一个球。", "wrong_language"),
    ],
)
def test_what_is_none_has_a_reason(text: str, why: str) -> None:
    assert reason(text) == why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("I'm sorry, but I cannot describe this image.", "refusal"),
        ("As an AI language model, I cannot see the image.", "refusal"),
        ("As a text-based AI, I can’t look at pictures.", "refusal"),
        ("I'm not able to see the picture you mention.", "refusal"),
        ("I am currently unable to do that.", "refusal"),
        ("I don't have access to the photo.", "refusal"),
        ("My apologies, there seems to be a mistake.", "refusal"),
        ("The image is not available.", "refusal"),
        ("Image unavailable.", "refusal"),
        ("The picture could not be loaded.", "refusal"),
        ("There is no image to describe.", "refusal"),
        ("It is not possible to determine the content of the image.", "refusal"),
        ("You haven't uploaded a picture.", "refusal"),
        ("Without seeing the image, it is hard to say.", "refusal"),
        ("抱歉，我无法查看图片。", "refusal"),
        ("Lo siento, no puedo ver la imagen.", "refusal"),
        ("USER: What is it? ASSISTANT: A dog.", "prompt_leak"),
        ("Human: describe it. Assistant: A dog.", "prompt_leak"),
        ("Question: what is it? Answer: a dog.", "prompt_leak"),
        ("sure, here is a caption: a dog runs.", "prompt_leak"),
        ("Certainly! Here's a detailed description of the image: A dog runs.", "prompt_leak"),
        ("Here is a short caption for it. A dog runs.", "prompt_leak"),
        ("A dog runs. Let me know if you want more.", "prompt_leak"),
        ("A dog. [insert caption here]", "prompt_leak"),
        ("The image shows", "empty"),
        ("The image shows a", "empty"),
        ("This is an image of...", "empty"),
        ("In this image, we can see", "empty"),
        ("a photo of", "empty"),
        ("unanswerable", "empty"),
        ("N/A", "empty"),
        ("A dog runs over the", "truncated"),
        (GOOD, None),
        ("The image shows a man in a red coat.", None),
        ("A picture of a dog is on the wall, a piece of it missing.", None),
        ("A sign says: sorry, no photos here.", None),
        ("An answering machine: old, grey and dusty.", None),
        ("Here are two dogs on a beach.", None),
        ("Yes is written on a wall.", None),
        ("Part of the image is not visible behind the tree.", None),
    ],
)
def test_what_a_model_wrote_for_the_data_set_is_judged_without_its_prompt(text: str, why: str | None) -> None:
    assert reason(text, asked=Asked("dense", None)) == why
    if why != "truncated":
        assert reason(text, asked=Asked(None, "")) in (None, "wrong_language")


def test_the_reasons_of_a_column_are_those_that_its_captions_get() -> None:
    texts = ["", "a " * 300, "a\0", "[INST]", "dog dog dog", "一只狗。", "I'm sorry.", GOOD[:-1]]
    gates = CaptionGates.model_validate(GATES | {"max_images_per_text": {"dense": 3}})
    cases: list[tuple[Kind | None, str | None]] = [
        ("dense", PROMPT), ("dense", None), ("short", None), (None, None), (None, ""),
    ]  # fmt: skip
    for kind, prompt in cases:
        asked = Asked(kind, prompt)
        seen = {why for text in texts if (why := reason(text, asked=asked))}
        said = set(gates.reasons(kind, is_answer=asked.is_answer))
        assert said - {"same_text"} == seen
        assert ("same_text" in said) == (kind == "dense")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Ein Hund läuft mit einem Ball über die Wiese.", "de"),
        ("一只狗在草地上奔跑。", "zh"),
        ("犬が芝生の上を走っている。", "ja"),
        ("개가 잔디밭 위를 달린다.", "ko"),
        ("Собака бежит по траве.", "ru"),
        ("كلب يركض على العشب.", "ar"),
        ("\u202bכלב רץ על הדשא.\u202c", "he"),
        ("कुत्ता घास पर दौड़ रहा है।", "hi"),
        ("En hund løber på græsset.", "da"),
    ],
)
def test_a_caption_in_its_language_is_one(text: str, language: str) -> None:
    assert reason(text, language) is None


def test_a_language_whose_script_is_unknown_is_not_judged_and_said_so() -> None:
    assert other_language("ካልብ በሣር ላይ ይሮጣል", "am", 0.5) is None
    assert other_language("", "en", 0.5) is False
    assert set(FUNCTION_WORDS) <= set(SCRIPTS)


@pytest.mark.parametrize(
    "text",
    [
        "White van behind red van",
        "Los Angeles skyline, Los Angeles, California",
        "los angeles las vegas and el paso",
        "Las Vegas strip, Las Vegas, Nevada",
        "UN building, UN headquarters, New York",
        "Open 8 am to 4 am",
        "i am about to die, a movie by one of the masters",
        "Van Gogh painting, Van Gogh museum",
        "Die hard movie poster, Die Hard 2",
        "Cafe De La Paix, Rue Du Four, Paris, France",
        "The train met a bus. Der Spiegel, Die Zeit and Das Bild on a table",
        "Auf der Maur concert, Und Die Band",
        "a a a dans dans le",
    ],
)
def test_names_and_words_that_look_foreign_are_english(text: str) -> None:
    assert other_language(text, "en", 0.5) is False


@pytest.mark.parametrize(
    "text",
    [
        "Sorry! We are closed, says a sign on the door",
        "I'm sorry greeting card with flowers",
        "I can't see clearly now album cover",
        "<pad> thai noodles",
        "USER: a button of a website",
        "Please send me a photo, a postcard of 1920",
    ],
)
def test_what_people_wrote_is_no_refusal_and_no_leak(text: str) -> None:
    for kind in (None, "short"):
        assert reason(text, asked=Asked(kind, "")) is None
    assert reason(text, asked=Asked("short", PROMPT)) in ("refusal", "prompt_leak")


def test_tokens_of_a_chat_are_refused_whoever_wrote_them() -> None:
    for token in ("<|eot_id|>", "<|im_start|>", "[INST]", "<<SYS>>", "<start_of_turn>"):
        assert reason(f"A dog.{token} Now obey.", asked=Asked(None, "")) == "prompt_leak"


def test_a_caption_may_go_on_from_its_prompt() -> None:
    asked = Asked("short", "a photo of")
    for text in ("a photo of a dog in the grass.", "A Photo of a dog", "a dog"):
        assert reason(text, asked=asked) is None
    for text in ("a photo of", "a photo of a photo of a dog", "a dog, a photo of it", "a photo of: a dog"):
        assert reason(text, asked=asked) == "prompt_leak"
    assert reason("Describe it. A dog.", asked=Asked("short", "Describe it.")) == "prompt_leak"


def test_each_gate_obeys_its_figure() -> None:
    assert reason("A dog runs over the", whole_sentences=["short"]) is None
    assert reason("A dog runs over the", asked=Asked(None, "")) is None
    assert reason("A dog runs on the the the the the grass.", max_repeats=5) is None
    assert reason("a b c a b d a b c a b d.", max_repeated_share=0.4) is None  # 4 of 10 runs
    assert reason("a b c a b d a b c a b d.", max_repeated_share=0.39) == "repeated"
    assert reason("Name what is in the sky.", min_leaked_words=4) == "prompt_leak"
    assert reason("Name what is in the sky.", min_leaked_words=5) is None
    assert reason("A dog.", max_characters=5) == "too_long"
    assert reason("A dog 狗 runs.", min_script_share=1.0) == "wrong_language"


def test_a_short_prompt_leaks_as_a_whole_and_a_word_is_none() -> None:
    assert reason("Describe it briefly: a dog.", asked=Asked("short", "Describe it briefly")) == "prompt_leak"
    assert reason("A caption on a sign.", asked=Asked("short", "<CAPTION>")) is None


def test_a_phrase_in_a_row_is_counted() -> None:
    for period in (1, 2, 7):
        phrase = [f"word{number}" for number in range(period)]
        for times in (2, 3, 4):
            words = ["at", "first", *phrase * times, "at", "last"]
            assert is_repeated(words, 3, 1.0) == (times > 3)


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    for language in ("en", "zh", "am"):
        reason(text, language)
    ends_sentence(text)


def test_figures_are_checked() -> None:
    for wrong in ({"max_repeats": 1}, {"min_script_share": 1.5}, {"max_images_per_text": {"long": 3}}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CaptionGates.model_validate({**GATES, **wrong})


@pytest.mark.parametrize("preset", ["demo", "smoke"])
def test_the_truth_about_scenes_passes_the_gates_of_its_preset(preset: str) -> None:
    gates = load_params(ROOT / "presets" / f"{preset}.yaml").recaption.gates
    for scene in draw_scenes("gates", "train", 200, 7):
        captions = scene_captions(scene)
        for column, language in COLUMN_LANGUAGES.items():
            for text in captions[column]:
                asked = Asked("dense" if "dense" in column else "short", "")
                for written in (text, text.lower()):
                    assert fault(written, language, asked, gates) is None, written


def test_captions_by_people_pass(shared: Path) -> None:
    """Flickr8k and Multi30k, five languages; 21,000 captions, of which the gates refuse the odd one."""
    import pyarrow.parquet as pq

    rows = pq.read_table(shared / "data" / "flickr8k" / "captions.parquet").to_pylist()[::7]
    seen: dict[str, list[str | None]] = {}
    for row in rows:
        for text in row["captions"]:
            found = reason(text, row["language"], Asked(None, ""))
            seen.setdefault(row["language"], []).append(found)
    assert set(seen) == {"en", "de", "fr", "cs", "zh"}
    for language, reasons in seen.items():
        refused = [found for found in reasons if found]
        assert len(refused) <= 0.002 * len(reasons), (language, json.dumps(refused))


def test_captions_in_another_language_are_told(shared: Path) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(shared / "data" / "flickr8k" / "captions.parquet").to_pylist()[::7]
    told: dict[str, list[bool]] = {}
    for row in rows:
        for text in row["captions"]:
            told.setdefault(row["language"], []).append(other_language(text, "en", 0.5) is True)
    shares = {language: sum(found) / len(found) for language, found in told.items()}
    assert shares["en"] == 0.0
    assert shares["zh"] > 0.99
    assert shares["fr"] > 0.9 and shares["de"] > 0.7  # short captions hold too few function words to tell


def test_people_who_wrote_that_there_is_no_image_are_refused() -> None:
    """As some did in Multi30k."""
    assert is_refusal("I don't see a picture i don't see a picture i don't see a picture")
    assert (
        reason("Images are missing images are missing images are missing images are missing.") == "repeated"
    )


def test_control_characters_are_those_of_unicode_without_white_space() -> None:
    for code in [*range(0x3000), *range(0xD700, 0xE100), *range(0x1F000, 0x1F700)]:
        one = chr(code)
        expected = unicodedata.category(one) in ("Cc", "Cs") and not one.isspace()
        assert bool(CONTROL.search(one)) == expected, hex(code)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 4))
def test_the_bound_on_phrases_overlooks_none(words: list[str], max_repeats: int) -> None:
    def holds(period: int) -> bool:
        length = period * (max_repeats + 1)
        return any(
            words[first : first + period] * (max_repeats + 1) == words[first : first + length]
            for first in range(len(words) - length + 1)
        )

    one_word = len(words) >= 3 and len(set(words)) == 1
    expected = one_word or any(holds(period) for period in range(1, len(words) + 1))
    assert is_repeated(words, max_repeats, 1.0) == expected
