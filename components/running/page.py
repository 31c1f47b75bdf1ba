"""Self-contained HTML pages: fill templates, embed pictures."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

QUALITY = 85


def page_environment(folder: Path) -> Environment:
    """Return the jinja2 environment of a template folder: values are escaped, a missing one is an error."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def inline_picture(jpeg: bytes, side: int) -> str:
    """Return a picture as a data URI, shrunk so that its longer side has at most `side` pixels."""
    image: Image.Image = Image.open(BytesIO(jpeg))
    if max(image.size) > side:
        image = image.convert("RGB")
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        file = BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        jpeg = file.getvalue()
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"
