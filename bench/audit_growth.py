"""How audit grows with its images: the memory it holds, and its search for those that look the same.

    python -m bench.audit_growth --images ../shared/data/flickr8k/images [--rows 28000 56000 112000]

Each photograph is cut into 4 x 4, so that there are enough that differ. Printed are CPU seconds of the search
for each number of images, also as a share of its square; then what an image and a caption hold in memory.
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pyarrow as pa
from PIL import Image

from bench.rates import WORDS, made_captions
from components.audit.captions import Captions
from components.audit.duplicates import find_duplicates
from components.audit.fingerprints import FINGERPRINTS, fingerprint
from components.storage.side_tables import CAPTIONS

CUTS = 4
BITS, DIFFERENCE = 10, 6.0  # of the presets


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEGs, no two alike")
    parser.add_argument("--rows", type=int, nargs="+", default=[28_000, 56_000, 112_000])
    options = parser.parse_args(arguments)
    table = pa.Table.from_pylist(list(_cut(options.images)), FINGERPRINTS)
    if len(table) < max(options.rows):
        sys.exit(f"{options.images} gives {len(table)} pieces; expected {max(options.rows)} or more")
    for rows in options.rows:
        _search(table.slice(0, rows))
    _memory(table, max(options.rows))


def _cut(folder: Path) -> Iterator[dict[str, object]]:
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as image:
            width, height = image.width // CUTS, image.height // CUTS
            for number in range(CUTS * CUTS):
                left, top = number % CUTS * width, number // CUTS * height
                jpeg = BytesIO()
                image.crop((left, top, left + width, top + height)).save(jpeg, "JPEG", quality=95)
                yield fingerprint(jpeg.getvalue(), f"{path.stem}_{number}", "train")


def _search(table: pa.Table) -> None:
    start = time.process_time()
    found = find_duplicates(table, BITS, DIFFERENCE)
    seconds = time.process_time() - start
    square = 1e12 * seconds / len(table) ** 2
    _say(f"{len(table)} images: {seconds:.2f} CPU s, {square:.0f} ps x N x N, {len(found.near)} near")


def _memory(table: pa.Table, rows: int) -> None:
    rows = min(rows, len(table))
    tracemalloc.start()
    find_duplicates(table.slice(0, rows), BITS, DIFFERENCE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    _say(f"{(peak + table.slice(0, rows).nbytes) / rows:.0f} bytes an image")
    texts = made_captions(rows)
    lines = [
        {"key": f"cc3m_{row:09d}", "split": "train", "column": column, "language": "en", "number": 0,
         "text": texts[column][row], "writer": "cc3m"}
        for column in WORDS for row in range(rows)
    ]  # fmt: skip
    captions = pa.Table.from_pylist(lines, CAPTIONS)
    start = time.process_time()
    Captions().add(captions)
    milliseconds = 1000 * (time.process_time() - start) / len(captions)
    tracemalloc.start()
    held = Captions()
    held.add(captions)
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    _say(f"{now / len(captions):.0f} bytes and {milliseconds:.3f} CPU ms a caption")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
