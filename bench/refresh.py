"""What four weeks cost: a list, then with rows gone, new and changed, in another order, and another setting.

    python -m bench.refresh [--rows 100000] [--training]

It makes a list of two sources and serves its pictures (64 x 64 pixels, all different). In the second week
2 % of the rows are gone, 5 % are new and 1 % have another caption, in random places; in the third the list is
only in another order; in the fourth `download.fetch.retries` is another. Each week the data stages run, and
tune_llm; with `--training` train_clip too. Printed are, stage by stage, what was done (urls fetched, pictures
decoded, embedded, captioned; texts scored, embedded; steps trained), wall seconds, and bytes that all
processes wrote. Then, for the second week: the share of the first week's seconds, less those that each
stage takes on a list of 600 rows; and the bytes written beside those of what is new. The last line says
whether only new things were done; the exit code is 1 if not.
"""

from __future__ import annotations

import argparse
import atexit
import json
import runpy
import shutil
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from ruamel.yaml import YAML

from bench.download import ROOT, served
from bench.measuring import Cost, run_measured, say
from components.storage.side_tables import CAPTION_TEXTS, read_table

DATA_STAGES = ("download", "recaption", "audit", "embed_captions")
ORDER = ("download", "recaption", "audit", "tune_llm", "embed_captions", "train_clip")
SOURCES, START_ROWS, SIDE, CELLS = ("first", "second"), 600, 64, 8
ENCODERS = ("base", "tuned")
GONE, NEW, CHANGED = 0.02, 0.05, 0.01
WORDS = [f"word{number}" for number in range(5000)]
COUNTS = "counts.json"
SHARE_OF_SECONDS, RATIO_OF_BYTES = 0.10, 2.0  # asked of the second week
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Week:
    """What each stage of a week did and cost, and the texts that there were."""

    counts: dict[str, Counter[str]]
    costs: dict[str, Cost]
    texts: set[str]

    def done(self) -> Counter[str]:
        """Return all that was done."""
        return sum(self.counts.values(), Counter())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, or one of its stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--training", action="store_true", help="train_clip too")
    parser.add_argument("--stage", choices=ORDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        _run_stage(options.stage)
        return
    stages = ORDER if options.training else ORDER[:-1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        new = round(NEW * options.rows)
        write_pictures(folder / "pictures", options.rows + new)
        with served(folder / "pictures") as port:
            is_right = _weeks(folder, port, options.rows, new, stages)
    sys.exit(0 if is_right else 1)


def _weeks(folder: Path, port: int, rows: int, new: int, stages: Sequence[str]) -> bool:
    draw = np.random.default_rng(7)
    whole = list_of(port, rows + new, draw)
    lists = [whole[:rows], refreshed(whole, rows, draw)]
    lists += [[lists[1][place] for place in draw.permutation(len(lists[1]))]] * 2
    small = folder / "small"
    _prepare(small, port)
    run_measured([sys.executable, "-m", "components", "base_models"], small, {"PYTHONPATH": str(ROOT)})
    start = _run_week(small, port, whole[:START_ROWS], stages)
    workspace = folder / "weeks"
    _prepare(workspace, port)
    shutil.copytree(small / "artifacts" / "base_models", workspace / "artifacts" / "base_models")
    weeks = []
    for number, week_rows in enumerate(lists, start=1):
        if number == len(lists):
            _prepare(workspace, port, retries=3)
        weeks.append(_run_week(workspace, port, week_rows, stages))
        _tell(number, weeks[-1])
    return _judged(weeks, start, lists[1], whole[rows:])


def list_of(port: int, rows: int, draw: np.random.Generator) -> Rows:
    """Return rows of both sources, each with a url, a caption and a split of its own."""
    words = np.array(WORDS)[draw.integers(0, len(WORDS), (rows, 8))]
    splits = draw.choice(["train", "validation", "test"], rows, p=[0.96, 0.02, 0.02])
    return [
        {
            "url": f"http://127.0.0.1:{port}/{row:07d}.jpg",
            "caption": " ".join(words[row]),
            "split": str(splits[row]),
            "source": SOURCES[row % len(SOURCES)],
        }
        for row in range(rows)
    ]


def refreshed(whole: Rows, rows: int, draw: np.random.Generator) -> Rows:
    """Return the second week's list: some of the first rows are gone or changed, the others are new."""
    gone = {int(row) for row in draw.choice(rows, round(GONE * rows), replace=False)}
    left = [row for row in range(rows) if row not in gone]
    changed = {int(row) for row in draw.choice(left, round(CHANGED * rows), replace=False)}
    kept = [
        {**whole[row], "caption": f"{whole[row]['caption']} again"} if row in changed else whole[row]
        for row in left
    ]
    for row in whole[rows:]:
        kept.insert(int(draw.integers(0, len(kept))), row)
    return kept


def write_pictures(folder: Path, count: int) -> None:
    """Write JPEGs of random colours, so that no two look the same."""
    folder.mkdir()
    draw = np.random.default_rng(8)
    for number in range(count):
        colours = draw.integers(0, 256, (CELLS, CELLS, 3), dtype=np.uint8)
        pixels = np.ascontiguousarray(colours.repeat(SIDE // CELLS, axis=0).repeat(SIDE // CELLS, axis=1))
        (folder / f"{number:07d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, quality=90))


def _prepare(workspace: Path, port: int, **fetch: Any) -> None:  # noqa: ANN401 - params
    """Write the params of a week."""
    (workspace / "inputs" / "list").mkdir(parents=True, exist_ok=True)
    yaml = YAML()
    params = yaml.load(ROOT / "presets" / "smoke.yaml")
    texts = next(source for source in params["download"]["sources"] if source["kind"] == "scene_texts")
    sources = [
        {
            "kind": "url_list",
            "name": name,
            "path": f"{name}.parquet",
            "url_column": "url",
            "split_column": "split",
            "captions": [{"column": "caption", "name": "alt", "language": "en"}],
        }
        for name in SOURCES
    ]
    fetch |= {"allowed_ports": [port], "allowed_private_hosts": ["127.0.0.1"]}
    fetch |= {"connections_per_host": 16}
    params["embed_captions"]["llms"] = list(ENCODERS)
    params["download"].update(inputs="list", sources=[*sources, texts], shard_rows=1000, fetch=fetch)
    params["evaluate"]["zero_shot"] = []  # the pictures have no labels
    params["train_clip"]["validation"] = {"steps": None, "keep": "last", "retrieval": []}
    yaml.dump(params, workspace / "params.yaml")


def _run_week(workspace: Path, port: int, rows: Rows, stages: Sequence[str]) -> Week:
    for name in SOURCES:
        lines = [{key: row[key] for key in row if key != "source"} for row in rows if row["source"] == name]
        pq.write_table(pa.Table.from_pylist(lines), workspace / "inputs" / "list" / f"{name}.parquet")
    counts, costs = {}, {}
    for stage in stages:
        before = _served(port)
        command = [sys.executable, "-m", "bench.refresh", "--stage", stage]
        costs[stage] = run_measured(command, workspace, {"PYTHONPATH": str(ROOT), "LLM2CLIP_PROCESSES": "1"})
        counts[stage] = Counter(json.loads((workspace / COUNTS).read_text("utf-8")))
        counts[stage]["urls fetched"] += _served(port) - before
    tables = (workspace / "artifacts" / "recaption" / "captions").glob("*.parquet")
    texts = {text for path in tables for text in read_table(path, CAPTION_TEXTS)["text"].to_pylist()}
    return Week(counts, costs, texts)


def _served(port: int) -> int:
    """Return how many pictures the server has sent."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/count") as answer:  # noqa: S310 - our own
        return int(answer.read())


def _tell(number: int, week: Week) -> None:
    for stage, cost in week.costs.items():
        done = ", ".join(f"{count:,} {what}" for what, count in sorted((+week.counts[stage]).items()))
        cost_text = f"{cost.wall_seconds:7.1f} s {cost.written_bytes / 1e6:8.1f} MB written"
        say(f"week {number}: {stage:14} {cost_text}; {done or 'nothing done'}")


def _judged(weeks: Sequence[Week], start: Week, second_rows: Rows, new_rows: Rows) -> bool:
    """Print the second week beside the first, and what was done that was not new."""
    first, second = weeks[:2]
    data_stages = [stage for stage in DATA_STAGES if stage in first.costs]

    def seconds(week: Week) -> float:
        return sum(
            max(0.0, week.costs[one].wall_seconds - start.costs[one].wall_seconds) for one in data_stages
        )

    share = seconds(second) / seconds(first)
    say(f"week 2 / week 1, seconds of data stages beyond their start: {share:.3f}; {SHARE_OF_SECONDS} asked")
    written = [sum(week.costs[one].written_bytes for one in data_stages) for week in (first, second)]
    new_bytes = written[0] * (len(new_rows) + round(CHANGED * len(second_rows))) / len(second_rows)
    byte_ratio = written[1] / new_bytes
    say(f"week 2, bytes written / those of new rows in week 1: {byte_ratio:.2f}; {RATIO_OF_BYTES} asked")
    surplus = _surplus(weeks, new_rows)
    for line in surplus:
        say(line)
    is_right = not surplus and share <= SHARE_OF_SECONDS and byte_ratio <= RATIO_OF_BYTES
    say(f"only what is new: {'yes' if is_right else 'no'}")
    return is_right


def _surplus(weeks: Sequence[Week], new_rows: Rows) -> list[str]:
    """Return a line for each kind of work of which a later week did not do exactly what is new."""
    second = weeks[1].done()
    every = dict.fromkeys(("urls fetched", "pictures decoded", "pictures embedded"), len(new_rows))
    learned = sum(row["split"] != "test" for row in new_rows)  # pictures of test are not captioned
    new_texts = weeks[1].texts - weeks[0].texts
    expected = {**every, "pictures captioned": learned, "steps trained": 0}
    expected["texts embedded"] = len(ENCODERS) * len(new_texts)
    if weeks[0].counts.get("train_clip"):
        del expected["steps trained"]  # other captions train other arms
    lines = [
        f"week 2: {second[kind]:,} {kind}; expected {count:,}"
        for kind, count in expected.items()
        if second[kind] != count
    ]
    for number, week in enumerate(weeks[2:], start=3):
        lines += [f"week {number}: {count:,} {kind}; expected none" for kind, count in (+week.done()).items()]
    return lines


def _run_stage(stage: str) -> None:
    """Run a stage in this folder and write what it did to a file, as the program ends."""
    counts: Counter[str] = Counter()
    if watch := _WATCHED.get(stage):
        watch(counts)
    atexit.register(lambda: Path(COUNTS).write_text(json.dumps(counts), "utf-8"))
    sys.argv[1:] = [stage]
    runpy.run_module("components", run_name="__main__")


def _watch_recaption(counts: Counter[str]) -> None:
    from components.recaption.captioners.made import FromPixels
    from components.recaption.scores.base_clip import BaseClip

    _count(
        FromPixels, "write", lambda _part, pairs, _captions: counts.update({"pictures captioned": len(pairs)})
    )
    _count(BaseClip, "embed_images", lambda jpegs, _: counts.update({"pictures embedded": len(jpegs)}))
    _count(BaseClip, "embed_texts", lambda texts: counts.update({"texts scored": len(texts)}))


def _watch_audit(counts: Counter[str]) -> None:
    from components.audit.near_duplicates import fingerprints

    decode = fingerprints.fingerprint

    def counted(jpeg: bytes, key: str) -> fingerprints.Fingerprint:
        counts["pictures decoded"] += 1
        return decode(jpeg, key)

    def here(jobs: dict[str, Any], *_others: Any) -> dict[str, Path]:  # noqa: ANN401 - as the original
        from multiprocessing import Pipe, RawValue

        from components.running.jobs import ProgressReporter

        ours, theirs = Pipe()
        results = {}
        with ours, theirs:
            for key, job in jobs.items():
                results[key] = job(ProgressReporter(theirs, RawValue("q", -1)))
                while ours.poll():
                    ours.recv()
        return results

    vars(fingerprints).update(fingerprint=counted, pieces_by_content=here)


def _watch_embedding(counts: Counter[str]) -> None:
    from components.embed_captions.llms import Llm

    _count(Llm, "encode", lambda texts, _: counts.update({"texts embedded": len(texts)}))


def _watch_training(counts: Counter[str]) -> None:
    import torch

    _count(torch.optim.AdamW, "step", lambda *_: counts.update({"steps trained": 1}))


def _count(kind: type, name: str, note: Callable[..., None]) -> None:
    """Let a method note its arguments before it works."""
    method = getattr(kind, name)

    def noting(self: Any, *arguments: Any) -> Any:  # noqa: ANN401 - as the method
        note(*arguments)
        return method(self, *arguments)

    setattr(kind, name, noting)


_WATCHED: dict[str, Callable[[Counter[str]], None]] = {
    "recaption": _watch_recaption,
    "audit": _watch_audit,
    "tune_llm": _watch_training,
    "embed_captions": _watch_embedding,
    "train_clip": _watch_training,
}


if __name__ == "__main__":
    main()
