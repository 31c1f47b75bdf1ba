"""Cost of fetching in download, and size of the stored images: constants of `llm2clip plan`.

    python -m bench.fetch_rates --photographs ../shared/data/coco_mini/images ../shared/data/flickr8k_fullres

It serves the pictures of `bench.download`. It prints the CPU milliseconds of one more picture (500 rows, then
4,000, in one process), those of a url that answers 404, and the peak memory of 1, 2 and 4 processes; then the
mean size of photographs as download stores them, and of the bytes that a shard has beside each.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.download import pictures, run_ours, served, url_of, write_list
from bench.measuring import say
from bench.rates import QUALITY, ROOT, SIZE, made_captions
from components.download.ledger import ADDED, SUCCESS, LedgerEntry
from components.download.pictures import picture_of
from components.settings.params import load_params
from components.storage.shards import Pair, write_shard

FEW, MANY, PAIRS = 500, 4000, 500
WIDTH = 1024  # pixels of a served picture
PROCESSES = (1, 2, 4)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photographs", type=Path, nargs="+", required=True, help="folders of JPEGs")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        _fetch(Path(name))
        _print_overhead(Path(name) / "shard.tar")
    _sizes(options.photographs)


def _fetch(folder: Path) -> None:
    names = pictures(None, WIDTH, folder / "pictures")
    sizes = [path.stat().st_size for path in (folder / "pictures").iterdir()]
    say(f"{sum(sizes) / len(sizes):.0f} bytes a picture of {WIDTH} pixels")
    with served(folder / "pictures") as port:
        good_urls = [url_of(port, names, row) for row in range(2 * MANY)]
        dead_urls = [f"http://127.0.0.1:{port}/absent?row={row}" for row in range(MANY)]
        cpu = {}
        lists = {
            "few": good_urls[:FEW],
            "many": good_urls[:MANY],
            "half": [*good_urls[: MANY // 2], *dead_urls[: MANY // 2]],
        }
        for name, urls in lists.items():
            write_list(folder / "list.parquet", urls)
            success_count = sum(url in set(good_urls) for url in urls)
            cpu[name] = 1000 * run_ours(folder, port, success_count, 1, max_reject_share=1.0).cpu_seconds
        picture = (cpu["many"] - cpu["few"]) / (MANY - FEW)
        say(f"{picture:.2f} CPU ms a picture")
        say(f"{(cpu['half'] - cpu['few'] - (MANY // 2 - FEW) * picture) / (MANY // 2):.2f} CPU ms a dead url")
        write_list(folder / "list.parquet", good_urls)
        for processes in PROCESSES:
            peak = run_ours(folder, port, len(good_urls), processes).peak_bytes
            say(f"{processes} processes: peak {peak / 1e6:.0f} MB, 2,000 rows a shard")


def _print_overhead(path: Path) -> None:
    """Print the bytes of a shard for each image besides the JPEG, with captions like DreamLIP's."""
    draw = random.Random(7)  # noqa: S311 - nothing secret
    captions = made_captions(PAIRS)
    jpegs = [draw.randbytes(draw.randint(20_000, 40_000)) for _ in range(PAIRS)]
    pairs = (
        Pair(f"cc3m_{row:09d}", jpeg, captions["raw"][row], _metadata(row, captions))
        for row, jpeg in enumerate(jpegs)
    )
    write_shard(path, pairs)
    overhead_bytes = path.stat().st_size - sum(len(jpeg) for jpeg in jpegs)
    say(f"{overhead_bytes / PAIRS:.0f} bytes a picture beside its JPEG")


def _metadata(row: int, captions: dict[str, list[str]]) -> dict[str, object]:
    url = f"https://photographs.example.org/images/2014/10/{row:032d}.jpg"
    entry = LedgerEntry(
        url, captions["raw"][row], f"cc3m_{row:09d}", SUCCESS, None, SIZE, 192, 1024, 768,
        json.dumps({"Orientation": 1}), 64 * "0", 157_000, None, False, "train", "cc3m",
        captions["raw"][row], None, 0, 64 * "0",
    )  # fmt: skip
    texts = [
        {"column": column, "language": "en", "number": 0, "text": column_texts[row], "writer": "cc3m"}
        for column, column_texts in captions.items()
    ]
    line = {name: value for name, value in asdict(entry).items() if name not in ADDED}
    return {**line, "labels": {}, "captions": texts}


def _sizes(folders: Sequence[Path]) -> None:
    images = load_params(ROOT / "presets" / "cc3m.yaml").download.images
    photographs = [path.read_bytes() for folder in folders for path in sorted(folder.glob("*.jpg"))]
    stored = [picture_of(data, images) for data in photographs]
    mean = sum(len(picture.jpeg) for picture in stored) / len(stored)
    say(
        f"{mean:.0f} bytes of JPEG a photograph of {len(stored)}, longer side {SIZE} pixels, "
        f"quality {QUALITY}"
    )


if __name__ == "__main__":
    main()
