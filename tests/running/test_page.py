from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from components.running.page import inline_picture, page_environment


def picture(width: int, height: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), (200, 30, 60)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "shown"), [((400, 100), (64, 16)), ((64, 64), (64, 64)), ((10, 20), (10, 20))]
)
def test_a_picture_is_shrunk_but_never_enlarged(size: tuple[int, int], shown: tuple[int, int]) -> None:
    start, data = inline_picture(picture(*size), 64).split(",")
    assert start == "data:image/jpeg;base64"
    assert Image.open(BytesIO(b64decode(data))).size == shown


def test_values_are_escaped_and_missing_ones_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.html.j2").write_text("<p>{{ text }}</p>")
    template = page_environment(tmp_path).get_template("page.html.j2")
    assert template.render(text="<script>") == "<p>&lt;script&gt;</p>"
    with pytest.raises(UndefinedError):
        template.render()
