from __future__ import annotations

import gzip

import pytest

from components.ml.vision.picture_formats import format_of

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
DOCTYPE = b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd">'
ENTITIES = b'<!DOCTYPE svg [ <!ENTITY ns "http://www.w3.org/2000/svg"> ]>'


def boxed(major: bytes, *others: bytes) -> bytes:
    """Return the first box of a file in the ISO base media file format, and what may follow it."""
    content = b"ftyp" + major + bytes(4) + b"".join(others)
    return (len(content) + 4).to_bytes(4, "big") + content + b"\0\0\0\x08avif"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        *((boxed(brand, b"mif1"), "avif") for brand in (b"avif", b"avis")),
        *((boxed(brand, b"mif1"), "heic") for brand in (b"heic", b"heix", b"heim", b"heis")),
        *((boxed(brand, b"msf1"), "heic") for brand in (b"hevc", b"hevx", b"hevm", b"hevs")),
        (boxed(b"mif1", b"mif1", b"heic"), "heic"),
        (boxed(b"mif1", b"miaf", b"avif"), "avif"),
        (boxed(b"msf1", b"hevc"), "heic"),
        (boxed(b"mif1"), "heif"),
        (b"\xff\x0a\xfa\x1f\x81\x91\x08\x06", "jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + boxed(b"jxl "), "jxl"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + boxed(b"jp2 "), "jp2"),
        (b"\xff\x4f\xff\x51" + bytes(20), "jp2"),
        (b"II*\0" + bytes(20), "tiff"),
        (b"MM\0*" + bytes(20), "tiff"),
        (b"II+\0" + bytes(20), "tiff"),
        (b"MM\0+" + bytes(20), "tiff"),
        (b"II\xbc\x01" + bytes(20), "jxr"),
        (b"8BPS\0\1" + bytes(40), "psd"),
        (b"%PDF-1.7\n", "pdf"),
        (b"\n%PDF-1.7\n", "pdf"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "eps"),
        (b"\0\0\1\0\1\0" + bytes(20), "ico"),
        (SVG, "svg"),
        (b" \n\t" + SVG, "svg"),
        (b"<!-- made by <b>hand</b> -->\n<!-- twice -->" + SVG, "svg"),
        (b"\xef\xbb\xbf" + SVG, "svg"),
        (b"\xef\xbb\xbf\n<?xml version='1.0'?>\n<!-- a -->" + DOCTYPE + SVG, "svg"),
        (b"<?xml version='1.0'?>" + ENTITIES + b"<!-- b --><svg:svg xmlns:svg='x'>", "svg"),
        (b"<?xml-stylesheet href='a.css'?><SVG>", "svg"),
        (("\ufeff<?xml version='1.0' encoding='utf-16'?>" + SVG.decode()).encode("utf-16-le"), "svg"),
        (("\ufeff" + SVG.decode()).encode("utf-16-be"), "svg"),
        (SVG.decode().encode("utf-16-le"), "svg"),
        (gzip.compress(SVG), "svg"),
        # and what is no image stays so
        (b"", None),
        (b"<html><body><svg/></body></html>", None),
        (b"<!-- <svg/> --><html>", None),
        (b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'>", None),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", None),
        (b"<svgs/>", None),
        (b"{\"error\": 404}", None),
        (b"\x1f\x8b no gzip", None),
        (gzip.compress(b"<html>"), None),
        (boxed(b"isom", b"iso2", b"avc1", b"mp41"), None),
        (boxed(b"mp42", b"isom"), None),
        (boxed(b"qt  "), None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"<!--" * 20_000, None),
        (b"<!DOCTYPE svg [" + b"]" * 60_000, None),
    ],
)  # fmt: skip
def test_formats_are_known_by_their_first_bytes(data: bytes, expected: str | None) -> None:
    assert format_of(data) == expected
