"""Pattern of a word: a run of letters and digits, or a character of a script without spaces."""

from __future__ import annotations

import re

UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, kana, ideographs
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
