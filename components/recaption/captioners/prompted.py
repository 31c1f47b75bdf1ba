"""Captions from a model that gets an image and a prompt, independent of how the model is run."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from components.errors import ConfigurationError
from components.recaption.captioners.captioner import Asked, Part
from components.recaption.filters.languages import SCRIPTS
from components.settings.recaption import PromptedCaptioner
from components.storage.shards import Pair
from components.storage.side_tables import Caption, Draft

SEED_BITS = 31  # servers differ in the largest seed they accept


@dataclass(frozen=True)
class Order:
    """A request for one caption."""

    jpeg: bytes
    prompt: str
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Reply:
    """The text returned for an order, and why it is no caption if that is already known."""

    text: str
    reason: str | None = None


def messages(order: Order) -> list[dict[str, Any]]:
    """Return the messages of a chat completion request: the image as a data URL, then the prompt."""
    url = f"data:image/jpeg;base64,{b64encode(order.jpeg).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": order.prompt}]
    return [{"role": "user", "content": content}]


class Writer(Protocol):
    """A runtime of a model.

    Attributes:
        made_by: See `Part`.
    """

    made_by: str | None

    def identity(self) -> dict[str, Any]:
        """Return all inputs of its replies besides the orders, as plain values."""

    def replies(self, orders: Sequence[Order]) -> Iterator[tuple[int, Reply]]:
        """Yield the index of each order with its reply, in any order."""


class FromPrompts:
    """Write the column `<name>_<kind>` for each kind that has a prompt.

    Args:
        section: Section of the captioner, from params.
        seed: Seed of the run; each caption's own seed is derived from it, the column and
            the picture, so that a picture has its caption whatever its key.
        writer: Runtime of the model.
        retry_rounds: See `Part`.

    Raises:
        ConfigurationError: no gate can check the requested language.
    """

    def __init__(self, section: PromptedCaptioner, seed: int, writer: Writer, retry_rounds: int = 0) -> None:
        self.name = section.name
        self._section, self._writer, self._retry_rounds = section, writer, retry_rounds
        self._kinds = {self._column(kind): kind for kind in section.prompts}
        self._seed = seed if section.temperature else 0  # without sampling the seed has no effect
        if section.language not in SCRIPTS:
            raise ConfigurationError(
                f"recaption.captioners {section.name} writes language {section.language}, whose script is "
                f"not known; expected one of {', '.join(sorted(SCRIPTS))}; "
                "add it to recaption/filters/languages.py"
            )

    def columns(self) -> set[tuple[str, str]]:
        """See `Captioner`."""
        return {(column, split) for column, splits in self._section.written() for split in splits}

    def sources(self) -> set[tuple[str, str]]:
        """See `Captioner`; captions of the source are never part of a prompt."""
        return set()

    def asked(self, column: str, split: str) -> Asked:
        """See `Captioner`."""
        kind = self._kinds[column]
        return Asked(kind, self._section.prompts[kind])

    def parts(self) -> list[Part]:
        """See `Captioner`; one part per kind and split, so adding a kind or split rewrites no other."""
        common = {
            **self._section.model_dump(exclude={"requests", "prompts", "max_new_tokens", "splits"}),
            "seed": self._seed,
            "writer": self._writer.identity(),
        }
        return [
            Part(
                frozenset({(column, split)}),
                {
                    **common,
                    "prompt": self._section.prompts[kind],
                    "max_new_tokens": self._section.max_new_tokens[kind],
                },
                self._writer.made_by,
                retry_rounds=self._retry_rounds,
            )
            for column, kind in self._kinds.items()
            for split in self._section.splits
        ]

    def write(self, part: Part, pairs: Sequence[Pair], captions: Sequence[Caption]) -> Iterator[Draft]:
        """See `Captioner`; in the order of the pairs, each as soon as all earlier ones have come."""
        ((column, _),) = part.columns
        kind = self._kinds[column]
        prompt, max_new_tokens = self._section.prompts[kind], self._section.max_new_tokens[kind]
        orders = [Order(pair.jpeg, prompt, max_new_tokens, self._seed_of(column, pair)) for pair in pairs]
        waiting: dict[int, Reply] = {}
        next_index = 0
        for index, reply in self._writer.replies(orders):
            waiting[index] = reply
            while next_index in waiting:
                yield self._draft(pairs[next_index], column, waiting.pop(next_index))
                next_index += 1

    def _draft(self, pair: Pair, column: str, reply: Reply) -> Draft:
        text = " ".join(reply.text.split())
        split, language = pair.metadata["split"], self._section.language
        return Draft(Caption(pair.key, split, column, language, 0, text, self.name), reply.reason)

    def _column(self, kind: str) -> str:
        return f"{self.name}_{kind}"

    def _seed_of(self, column: str, pair: Pair) -> int:
        picture = sha256(pair.jpeg).hexdigest()
        digest = sha256(f"{self._seed}\n{column}\n{picture}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)
