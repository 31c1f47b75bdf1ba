"""Parse lists of captions written as text.

`DataFrame.to_csv`, img2dataset and others write a list as Python or numpy prints it; other tools write JSON.
Only a flat list of strings, `null`, `None` and `nan` is read as one; `[]` holds no caption, as an empty list
of parquet holds none. `[12]`, `['a', 3]` and `[laughs] a cat` are captions as they stand.
"""

from __future__ import annotations

import ast
import json
import re

MAX_CHARACTERS = 1_000_000
ESCAPE = r"""\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"""  # as `repr` writes them
STRING = rf"""u?(?:'(?:[^'\\\n]|{ESCAPE})*+'|"(?:[^"\\\n]|{ESCAPE})*+")"""
ITEM = rf"(?:{STRING}|np\.str_\({STRING}\)|None|nan)"
PYTHON_LIST = re.compile(rf"\[\s*+(?:{ITEM}(?:\s*+,\s*+{ITEM})*+(?:\s*+,)?\s*+)?\]")  # linear: no way back
NUMPY_LIST = re.compile(rf"\[\s*+{ITEM}(?:\s++{ITEM})++\s*+\]")  # Python would join such strings to one
STRINGS = re.compile(STRING)


def strings_listed_in(text: str) -> list[str] | None:
    """Return the strings of a list that is written as text, or None for any other text.

    Args:
        text: E.g. `["a cat", "a dog"]`, `['a cat', 'a dog']`, or numpy's `['a cat' 'a dog']`.
    """
    text = text.strip()
    if not text.startswith("[") or not text.endswith("]") or len(text) > MAX_CHARACTERS:
        return None
    strings = _strings_in_json(text)
    if strings is None and (PYTHON_LIST.fullmatch(text) or NUMPY_LIST.fullmatch(text)):
        strings = [ast.literal_eval(string) for string in STRINGS.findall(text)]
    return strings


def _strings_in_json(text: str) -> list[str] | None:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_nothing = [item is None or item != item for item in items]
    strings = [item for item, nothing in zip(items, is_nothing, strict=True) if not nothing]
    return strings if all(isinstance(item, str) for item in strings) else None
