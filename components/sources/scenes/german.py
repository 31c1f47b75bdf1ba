"""German captions of procedural scenes: a short and a dense one."""

from __future__ import annotations

from components.sources.scenes.space import PLACES, Scene, SceneObject

SHAPES = {  # noun, ending of its adjectives (ein großer Kreis, ein großes Quadrat, eine große Raute)
    "circle": ("Kreis", "er"),
    "square": ("Quadrat", "es"),
    "triangle": ("Dreieck", "es"),
    "diamond": ("Raute", "e"),
    "star": ("Stern", "er"),
    "cross": ("Kreuz", "es"),
}
COLOURS = {"red": "rot", "green": "grün", "blue": "blau", "yellow": "gelb"}
COLOURS_WITHOUT_ENDING = {"orange": "orange", "purple": "lila", "pink": "rosa", "turquoise": "türkis"}
SIZES = {"small": "klein", "large": "groß"}
FILLS = {"filled": "gefüllt", "outlined": "umrandet"}
PLACES_IN_GERMAN = {
    "top left": "Oben links",
    "top right": "Oben rechts",
    "bottom left": "Unten links",
    "bottom right": "Unten rechts",
}
BACKGROUNDS = {"white": "weiß", "black": "schwarz", "grey": "grau", "brown": "braun"}
COUNTS = {2: "zwei", 3: "drei"}


def short_caption(scene: Scene) -> str:
    """Return one phrase: size, colour and shape of each object in reading order."""
    phrases = [_phrase(item, dense=False) for item in scene.objects]
    return f"{', '.join(phrases[:-1])} und {phrases[-1]}"


def dense_caption(scene: Scene) -> str:
    """Return a caption that states all facts, in reading order with the place before the object."""
    objects = {item.place: item for item in scene.objects}
    sentences = [
        f"Das Bild zeigt {COUNTS[len(objects)]} Formen vor einem schlichten "
        f"{BACKGROUNDS[scene.background]}en Hintergrund."
    ]
    for place in PLACES:
        item = objects.get(place)
        predicate = f"befindet sich {_phrase(item, dense=True)}" if item else "bleibt die Fläche ganz leer"
        sentences.append(f"{PLACES_IN_GERMAN[place]} in der Ecke {predicate}.")
    return " ".join(sentences)


def _phrase(item: SceneObject, *, dense: bool) -> str:
    noun, ending = SHAPES[item.shape]
    article = "eine" if ending == "e" else "ein"
    words = [article, SIZES[item.size] + ending]
    if dense:
        words.append(FILLS[item.fill] + ending)
    declined = COLOURS.get(item.colour)
    words.append(declined + ending if declined else COLOURS_WITHOUT_ENDING[item.colour])
    return " ".join([*words, noun])
