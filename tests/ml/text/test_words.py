from __future__ import annotations

from components.ml.text.words import WORD


def test_words_of_scripts_with_and_without_spaces() -> None:
    assert WORD.findall("A dog's 2 bowls, über_all") == ["A", "dog", "s", "2", "bowls", "über_all"]
    assert WORD.findall("犬がいる dog3") == ["犬", "が", "い", "る", "dog3"]
    assert WORD.findall("豈\uf900狗a") == ["豈", "\uf900", "狗", "a"]
    assert WORD.findall("หมา") == ["ห", "ม", "า"]
    assert WORD.findall("!? …") == []
