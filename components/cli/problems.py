"""Problems that `llm2clip check` reports, each with its line of params.yaml."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from components.errors import ConfigurationError
from components.settings.params import located
from components.sources.input_paths import Location
from components.storage.layout import PARAMS

NAMES_SHOWN = 12


@dataclass(frozen=True)
class Problem:
    """A wrong value in params; `text` says what was found, what was expected and what to do."""

    location: Location
    text: str

    def line(self) -> str:
        """Return the problem in one line, with the line of params.yaml if that file exists."""
        position = located(PARAMS, self.location) if PARAMS.is_file() else ".".join(map(str, self.location))
        return f"{position}: {self.text}"


def refuse(problems: Sequence[Problem]) -> None:
    """Raise one error for all problems, if there are any.

    Raises:
        ConfigurationError: there are problems; one line for each.
    """
    if problems:
        raise ConfigurationError("\n".join(dict.fromkeys(problem.line() for problem in problems)))


def listed(names: Collection[str]) -> str:
    """Return names for a message: at most the first `NAMES_SHOWN`."""
    shown = ", ".join(sorted(names)[:NAMES_SHOWN]) or "none"
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown


def advice(name: str, known: Collection[str]) -> str:
    """Return the advice for an unknown name: the nearest known name."""
    matches = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {matches[0]}?" if matches else "name one of them"
