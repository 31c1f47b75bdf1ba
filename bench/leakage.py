"""Recall of the audit on planted copies of train photographs in a test set, by kind of copy (P18).

    python -m bench.leakage --images ../shared/data/flickr8k/images --photographs 3000

Half of the photographs are train; copies of them, and the other half unchanged, are test. For each kind, the
share of copies that are found with the right original is printed; and over all photographs without a copy,
the share that is taken for one. The limits of docs/faults.md are printed beside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from PIL import Image, ImageOps

from components.audit.near_duplicates.comparison import Alike
from components.audit.near_duplicates.duplicates import find_duplicates
from components.audit.near_duplicates.fingerprints import Fingerprint, fingerprint, joined, write_fingerprints
from components.settings.params import load_params

DOWNLOADED_QUALITY = 92  # as download writes them
REQUIRED = {"exact": 1.0, "re-encoded": 0.99, "resized": 0.99}
MAX_FALSE_POSITIVES = 0.001
PRESET = Path(__file__).resolve().parents[1] / "presets" / "flickr8k.yaml"


def jpeg(image: Image.Image, quality: int = DOWNLOADED_QUALITY) -> bytes:
    """Return an image as JPEG."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Return an image at another size."""
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Return the middle of an image: `share` of each side."""
    left, top = (round(side * (1 - share) / 2) for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def shifted(image: Image.Image, levels: int) -> Image.Image:
    """Return an image with more red and less blue."""
    red, green, blue = image.split()
    red = red.point([min(255, value + levels) for value in range(256)])
    blue = blue.point([max(0, value - levels) for value in range(256)])
    return Image.merge("RGB", (red, green, blue))


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "exact": jpeg,
    "re-encoded": lambda image: jpeg(image, 75),
    "re-encoded hard": lambda image: jpeg(image, 40),
    "resized": lambda image: jpeg(scaled(image, 0.5)),
    "resized up": lambda image: jpeg(scaled(image, 1.5)),
    "cropped to 90 %": lambda image: jpeg(cropped(image, 0.9)),
    "flipped": lambda image: jpeg(ImageOps.mirror(image)),
    "colour-shifted": lambda image: jpeg(shifted(image, 20)),
}


def measure(paths: Sequence[Path], alike: Alike) -> dict[str, Any]:
    """Plant copies of the first half of the photographs and return recall by kind and false positives.

    Args:
        paths: Photographs; if two look the same, one of them counts as a false positive.
        alike: What counts as the same.
    """
    half = len(paths) // 2
    train, others = paths[:half], paths[half:]
    seen = [fingerprint(jpeg(_open(path)), path.stem) for path in train]
    unseen = [fingerprint(jpeg(_open(path)), path.stem) for path in others]
    clean = _leaked_tests(seen, unseen, alike)
    recall = {}
    for kind, change in KINDS.items():
        copies = [fingerprint(change(_open(path)), f"copy of {path.stem}") for path in train]
        matches = _leaked_tests(seen, copies, alike)
        recall[kind] = sum(matches.get(f"copy of {path.stem}") == path.stem for path in train) / half
    return {
        "photographs": len(paths),
        "recall": recall,
        "false_positives": len(clean) / len(others),
        "taken_for_copies": dict(sorted(clean.items())),
    }


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _leaked_tests(train: list[Fingerprint], test: list[Fingerprint], alike: Alike) -> dict[str, str]:
    """Return the test images that are also in train, each with the train image that it resembles."""
    with TemporaryDirectory() as name:
        folder, rows = Path(name), [*train, *test]
        write_fingerprints(folder, rows)
        splits = ["train"] * len(train) + ["test"] * len(test)
        images = pa.table({"key": [row.key for row in rows], "split": splits})
        all_fingerprints = joined([folder], ["00000"], [images])
        leaked = find_duplicates(all_fingerprints, alike, folder / "work", 1).leaked_tests
        return {rows[copy].key: rows[first].key for copy, first in leaked.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 where a required figure is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--photographs", type=int, default=3000, help="taken from its head by name")
    options = parser.parse_args(arguments)
    limits = load_params(PRESET).audit
    paths = sorted(options.images.glob("*.jpg"))[: options.photographs]
    result = measure(paths, Alike(limits.near_duplicate_bits, limits.near_duplicate_difference))
    lines = [
        f"{result['photographs']} photographs, half of them copied",
        "kind              recall   required",
    ]
    for kind, recall in result["recall"].items():
        required = f">= {REQUIRED[kind]:.2%}" if kind in REQUIRED else "reported"
        lines.append(f"{kind:<16}{recall:>8.2%}   {required}")
    false_positives = result["false_positives"]
    lines.append(f"{'false positives':<16}{false_positives:>8.2%}   <= {MAX_FALSE_POSITIVES:.2%}")
    lines += [f"  {test} is taken for {seen}" for test, seen in result["taken_for_copies"].items()]
    sys.stdout.write("\n".join(lines) + "\n")
    missed = [kind for kind, required in REQUIRED.items() if result["recall"][kind] < required]
    return int(bool(missed) or false_positives > MAX_FALSE_POSITIVES)


if __name__ == "__main__":
    sys.exit(main())
