"""Collect the problems that `llm2clip check` finds, each with its line of params.yaml."""

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
    """One param that does not fit; `text` says what was found, what was expected and what to do."""

    location: Location
    text: str

    def line(self) -> str:
        """Return the problem in one line, with the line of params.yaml where that file is here."""
        where = located(PARAMS, self.location) if PARAMS.is_file() else ".".join(map(str, self.location))
        return f"{where}: {self.text}"


def refuse(problems: Sequence[Problem]) -> None:
    """Stop where there are problems.

    Raises:
        ConfigurationError: there are; a line for each.
    """
    if problems:
        raise ConfigurationError("\n".join(dict.fromkeys(problem.line() for problem in problems)))


def listed(names: Collection[str]) -> str:
    """Return names for a message; of many the first."""
    shown = ", ".join(sorted(names)[:NAMES_SHOWN]) or "none"
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown


def advice(name: str, known: Collection[str]) -> str:
    """Return what to do about a name that is not known: the nearest one that is."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {near[0]}?" if near else "name one of them"
