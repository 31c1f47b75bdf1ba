"""What decides a training run: the base model and the captions that it trains on, nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from components.settings.params import Params
from components.storage.layout import Layout
from components.storage.manifest import listed, write_manifest
from components.storage.side_tables import Caption, read_captions, read_keys, write_captions, write_keys
from components.tune_llm.caption_rows import CaptionRows
from components.tune_llm.training_data import TrainingData


def test_another_base_model_is_another_run(layout: Layout, smoke: Params) -> None:
    before = TrainingData(smoke, layout).decided_by(smoke.tune_llm.phases)
    config = layout.artifact("base_models") / "llm" / "config.json"
    config.write_text(config.read_text("utf-8") + "\n", "utf-8")
    write_manifest(layout.artifact("base_models"))
    after = TrainingData(smoke, layout).decided_by(smoke.tune_llm.phases)
    assert {name for name, value in after.items() if value != before[name]} == {"llm"}


TEXTS, CAPTIONS, HELD_OUT = "texts/00000.parquet", "captions/00000.parquet", "captions/00001.parquet"


def read(layout: Layout, stage: str, file: str) -> list[Caption]:
    return read_captions(layout.artifact(stage) / file)


def put(layout: Layout, stage: str, file: str, lines: list[Caption]) -> None:
    folder = layout.artifact(stage)
    write_captions(folder / file, lines)
    write_manifest(folder, {entry.path: entry.rows for entry in listed(folder) if entry.rows})


def with_dense(lines: list[Caption]) -> list[Caption]:
    """Add two dense captions of a train image, which two phases read."""
    image = next(one for one in lines if one.split == "train")
    return [*lines, *(replace(image, column="dense", number=n, text=f"dense {n}") for n in range(2))]


@pytest.mark.parametrize("change", ["texts", "captions", "kept"])
def test_other_captions_or_other_kept_ones_are_another_run(
    layout: Layout, smoke: Params, change: str
) -> None:
    phases = smoke.tune_llm.phases
    lines = with_dense(read(layout, "recaption", CAPTIONS))
    put(layout, "recaption", CAPTIONS, lines)
    before = TrainingData(smoke, layout).decided_by(phases)
    if change == "texts":
        texts = read(layout, "download", TEXTS)
        used = next(one for one in texts if one.split == "train" and one.column == "short")
        put(layout, "download", TEXTS, [one for one in texts if one is not used])
    elif change == "captions":
        put(layout, "recaption", CAPTIONS, [*lines[:-1], replace(lines[-1], text="another text")])
    else:
        path = layout.artifact("audit") / "kept" / "00000.parquet"
        write_keys(path, sorted(read_keys(path) - {lines[-1].key}))
        write_manifest(layout.artifact("audit"))
    after = TrainingData(smoke, layout).decided_by(phases)
    assert {name for name, value in after.items() if value != before[name]} == {"data"}


def test_rows_of_other_splits_other_columns_and_measurements_decide_nothing(
    layout: Layout, smoke: Params
) -> None:
    phases = smoke.tune_llm.phases
    first = TrainingData(smoke, layout)
    expected = first.decided_by(phases)
    lines = read(layout, "recaption", HELD_OUT)
    assert {one.split for one in lines} >= {"validation", "test"}
    gone = {next(one.key for one in lines if one.split == split) for split in ("validation", "test")}
    unread = Caption("k_new", "train", "nobody_reads_it", "en", 0, "a text", "x")
    put(layout, "recaption", HELD_OUT, [*(one for one in lines if one.key not in gone), unread])
    tree = smoke.model_dump()
    tree["tune_llm"]["caption_retrieval"].append({"name": "more", "first": "dense", "second": "dense"})
    tree["tune_llm"]["caption_retrieval_steps"] = 2
    after = TrainingData(Params.model_validate(tree), layout)
    assert after.decided_by(phases) == expected
    assert first.measured_by is None
    assert after.measured_by is not None


def test_tasks_and_validation_rows_decide_what_was_measured(layout: Layout, smoke: Params) -> None:
    tree = smoke.model_dump()
    tree["tune_llm"]["caption_retrieval_steps"] = 2
    measured = Params.model_validate(tree)
    before = TrainingData(measured, layout).measured_by
    lines = read(layout, "recaption", HELD_OUT)
    for split, is_another in (("test", False), ("validation", True)):
        gone = next(one.key for one in lines if one.split == split)
        put(layout, "recaption", HELD_OUT, [one for one in lines if one.key != gone])
        assert (TrainingData(measured, layout).measured_by != before) == is_another
    tree["tune_llm"]["caption_retrieval"].append({"name": "more", "first": "dense", "second": "dense"})
    put(layout, "recaption", HELD_OUT, lines)
    assert TrainingData(measured, layout).measured_by == before
    assert TrainingData(Params.model_validate(tree), layout).measured_by != before


def test_a_phase_added_decides_no_earlier_one(layout: Layout, smoke: Params) -> None:
    phases = smoke.tune_llm.phases
    data = TrainingData(smoke, layout)
    assert data.decided_by(phases[:1]) != data.decided_by([])
    kind = phases[0].pairs[0].model_copy(update={"first": "dense", "second": "dense"})
    longer = [*phases, phases[0].model_copy(update={"pairs": [kind]})]
    tree = smoke.model_dump()
    tree["tune_llm"]["phases"] = [phase.model_dump() for phase in longer]
    more = TrainingData(Params.model_validate(tree), layout)
    assert more.decided_by(more.params.tune_llm.phases[: len(phases)]) == data.decided_by(phases)


def test_a_changed_caption_is_found_by_every_digest() -> None:
    rows = {"b": {"short": ["one", "two"]}, "a": {"short": ["three"], "dense": ["four"]}, "c": {"alt": ["x"]}}
    digest = CaptionRows.of(rows).digest(["short", "dense"])
    without = {key: captions for key, captions in rows.items() if key != "c"}
    assert CaptionRows.of(without).digest(["dense", "short", "absent"]) == digest
    renamed = {"y": rows["b"], "x": rows["a"]}
    assert CaptionRows.of(renamed).digest(["short", "dense"]) == digest  # the order is what counts
    others = [
        {**rows, "b": {"short": ["two", "one"]}},
        {**rows, "b": {"short": ["onetwo", ""]}},
        {**rows, "b": {"short": ["one"], "dense": ["two"]}},
        {"a": rows["b"], "b": rows["a"]},
        {**rows, "d": {"short": ["one"]}},
    ]
    digests = [CaptionRows.of(other).digest(["short", "dense"]) for other in others]
    assert len({digest, *digests}) == len(others) + 1
    assert CaptionRows.of({}).digest(["short"]) == CaptionRows.of({}).digest([])
