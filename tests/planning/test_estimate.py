"""What `llm2clip plan` says: sums that can be done by hand, and nothing whose origin is not told."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from components.cli.main import app
from components.errors import ConfigurationError, DataError
from components.planning import audit as of_audit
from components.planning import download as of_download
from components.planning import embed_captions as of_embed_captions
from components.planning import recaption as of_recaption
from components.planning import train_clip as of_train_clip
from components.planning import tune_llm as of_tune_llm
from components.planning.estimate import Bound, Machine, plan_stages
from components.planning.language_model import EMBEDDING_SHARES, TOKENS, TUNING_SHARES
from components.planning.past_throughput import Figure, PastThroughput
from components.planning.text import plan_lines
from components.settings.base_models import HubModel
from components.settings.params import Params, load_params
from components.settings.recaption import Scores, VisionLanguageCaptioner
from components.settings.sources import Source, UrlList
from components.storage.atomic import write_json
from components.storage.layout import Layout
from tests.project import ROOT
from tests.sources.test_shard_rows import shards

MACHINE = Machine(
    cores=10, memory_bytes=64e9, gpus=1, network_bytes_per_second=1e6, machines=1
)  # a network of 8 Mbit/s
HOUR = 3600


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PastThroughput:
    """An empty project: nothing has run, no input is there."""
    monkeypatch.chdir(tmp_path)
    return PastThroughput(Layout(Path(".work")))


def listed(limit: int | None = 1_000_000, name: str = "mine", path: str = "list.parquet") -> UrlList:
    return UrlList.model_validate(
        {"kind": "url_list", "name": name, "path": path, "sha256": None, "columns": None, "key_column": None,
         "split_column": None, "split": "train", "url_column": "url", "sha256_column": None, "limit": limit,
         "captions": [{"column": "a", "name": "raw", "language": "en"},
                      {"column": "b", "name": "mllm_short", "language": "en"}], "weight": None}
    )  # fmt: skip


KEPT = 30.4e3 * (320 / 256) ** 2 + 4.1e3  # bytes of an image at the preset's 320 pixels, and its texts


def with_sources(params: Params, *sources: Source, **changes: Any) -> Params:
    download = params.download.model_copy(update={"sources": list(sources), **changes})
    return params.model_copy(update={"download": download})


@pytest.fixture
def mine() -> Params:
    """The preset cc3m with a million urls of one's own, and short captions that are taken from a column."""
    params = with_sources(load_params(ROOT / "presets" / "cc3m.yaml"), listed())
    (captioner,) = params.recaption.captioners
    tree = captioner.model_dump()
    captioner = type(captioner).model_validate({**tree, "columns": tree["columns"][:1]})
    return params.model_copy(
        update={"recaption": params.recaption.model_copy(update={"captioners": [captioner]})}
    )


def leave_run(measured: PastThroughput, stage: str, metrics: dict[str, Any], **costs: Any) -> None:
    write_json(measured.layout.metrics(stage), metrics)
    leave_costs(measured, stage, **costs)


def leave_costs(measured: PastThroughput, stage: str, **costs: Any) -> None:
    found = {"machine": platform.machine(), "seconds": 100.0, "cpu_seconds": 20.0, **costs}
    write_json(measured.layout.costs(stage), found)


DOWNLOADED = {
    "images": {"rows_in": 20_000, "rows_out": 10_000, "sources": {"mine": 10_000},
               "original_bytes": 10_000 * 100_000, "shard_bytes": 10_000 * 20_000}
}  # fmt: skip


def test_download_is_bound_by_the_longest_of_three(
    mine: Params, measured: PastThroughput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_download, "PICTURE", Figure(1.0, "a test"))
    found = of_download.plan(mine, MACHINE, measured)
    assert found.rows == found.requests == 1_000_000
    assert found.cpu_hours == pytest.approx(1000 / HOUR)  # a million of a millisecond
    hours = {bound.name: bound.hours for bound in found.bounds}
    assert hours["CPU"] == pytest.approx(100 / HOUR)
    assert hours["network"] == pytest.approx(157_000 / HOUR)  # a million of 157 kB at 1 MB a second
    assert hours["connections"] == pytest.approx(1e6 * 1.2 / 512 / HOUR)
    assert found.binding and found.binding.name == "network"
    two = of_download.plan(mine, replace(MACHINE, machines=2), measured)
    assert two.binding and two.binding.hours == pytest.approx(157_000 / 2 / HOUR)
    assert any("one run uses one machine" in caution for caution in two.cautions)


def test_what_goes_to_a_bucket_takes_the_network_too(mine: Params, measured: PastThroughput) -> None:
    found = of_download.plan(with_sources(mine, listed(), data_root="s3://bucket/prefix"), MACHINE, measured)
    assert found.binding and found.binding.hours == pytest.approx((157_000 + KEPT) / HOUR)
    assert found.bytes_out.origin == "to s3://bucket/prefix"


def test_no_more_processes_than_shards(mine: Params, measured: PastThroughput) -> None:
    few = with_sources(mine, listed(30_000))
    cpu = of_download.plan(few, MACHINE, measured).bounds[0]
    total = of_download.plan(few, MACHINE, measured).cpu_hours
    assert total and cpu.hours == pytest.approx(total / 3)


def test_dead_urls_are_neither_fetched_nor_kept(mine: Params, measured: PastThroughput) -> None:
    alive = of_download.plan(mine, MACHINE, measured)
    known = of_download.plan(with_sources(mine, listed(name="cc3m")), MACHINE, measured)
    assert known.requests == alive.requests
    for bytes_of in ("bytes_in", "bytes_out"):
        assert getattr(known, bytes_of).value == pytest.approx(0.7 * getattr(alive, bytes_of).value)
    assert known.cpu_hours == pytest.approx((0.7e6 * 3.7 + 0.3e6 * 0.5) / 1000 / HOUR)
    assert any("img2dataset issue 391" in reason for reason in known.because)
    assert any("upper bound" in reason for reason in alive.because)


def test_more_rejects_than_params_allow_are_said(mine: Params, measured: PastThroughput) -> None:
    found = of_download.plan(with_sources(mine, listed(name="cc3m"), max_reject_share=0.2), MACHINE, measured)
    assert any(
        "30% of rows would be rejected; download.max_reject_share allows 20%" in c for c in found.cautions
    )


def test_a_larger_picture_is_kept_in_more_bytes(mine: Params, measured: PastThroughput) -> None:
    images = mine.download.images.model_copy(update={"size": 512, "jpeg_quality": 80})
    found = of_download.plan(with_sources(mine, listed(), images=images), MACHINE, measured)
    assert found.bytes_out.value == pytest.approx(1e6 * (4 * 30.4e3 + 4.1e3))
    assert any("to 512 pixels; quality 80 was not measured" in reason for reason in found.because)


def test_ones_own_run_comes_first(mine: Params, measured: PastThroughput) -> None:
    leave_run(measured, "download", DOWNLOADED)
    found = of_download.plan(mine, MACHINE, measured)
    assert found.cpu_hours == pytest.approx(1e6 * 20 / 20_000 / HOUR)
    assert found.bytes_in.value == pytest.approx(0.5e6 * 100_000)
    assert found.bytes_out.value == pytest.approx(0.5e6 * 20_000)
    assert not any("bench." in reason for reason in found.because if not reason.startswith("memory"))
    assert sum("your last run, 20,000 of them" in reason for reason in found.because) == 5
    hours = {bound.name: bound.hours for bound in found.bounds}
    assert hours["connections"] == pytest.approx(1e6 * 100 / 20_000 / HOUR)  # as many rows a second as then


@pytest.mark.parametrize(
    ("metrics", "costs"),
    [
        ({"images": {**DOWNLOADED["images"], "rows_in": 9_999}}, {}),
        ({"images": {**DOWNLOADED["images"], "sources": {"other": 10_000}}}, {}),
        (DOWNLOADED, {"machine": "abacus"}),
        ({"rows_in": 20_000}, {}),
    ],
    ids=["few_rows", "other_data", "other_machine", "other_version"],
)
def test_a_run_that_says_nothing_of_this_one_is_not_used(
    mine: Params, measured: PastThroughput, metrics: dict[str, Any], costs: dict[str, Any]
) -> None:
    before = of_download.plan(mine, MACHINE, measured)
    leave_run(measured, "download", metrics, **costs)
    assert of_download.plan(mine, MACHINE, measured) == before


def test_recaption_by_columns_is_one_process(
    mine: Params, measured: PastThroughput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_recaption, "CAPTION", Figure(1.0, "a test"))
    found = of_recaption.plan(mine, MACHINE, measured)
    assert found.cpu_hours == pytest.approx(3e6 / 1000 / HOUR)  # two read, one taken, of a million images
    assert found.binding and found.binding.hours == found.cpu_hours
    assert found.bytes_out.value == pytest.approx(3e6 * 110)
    assert found.bytes_in.value == 0  # captions lie beside the shards


def test_a_bucket_is_read_over_the_network(mine: Params, measured: PastThroughput) -> None:
    away = with_sources(mine, listed(), data_root="s3://bucket/prefix")
    scores = Scores.model_validate({"columns": None, "batch_size": 256, "precision": "fp32"})
    seen = away.model_copy(update={"recaption": away.recaption.model_copy(update={"scores": scores})})
    found = of_recaption.plan(seen, MACHINE, measured)
    assert next(bound.hours for bound in found.bounds if bound.name == "network") == pytest.approx(
        KEPT / HOUR
    )
    assert found.bytes_in.value == pytest.approx(1e6 * KEPT)
    assert found.bytes_in.origin == "from s3://bucket/prefix"
    blind = of_recaption.plan(seen, replace(MACHINE, network_bytes_per_second=None), measured)
    assert blind.binding is None


def test_scores_take_a_gpu_or_nobody_knows(mine: Params, measured: PastThroughput) -> None:
    def planned(precision: str, machine: Machine) -> Bound:
        scores = Scores.model_validate({"columns": None, "batch_size": 256, "precision": precision})
        params = mine.model_copy(update={"recaption": mine.recaption.model_copy(update={"scores": scores})})
        found = of_recaption.plan(params, machine, measured)
        (bound,) = [one for one in found.bounds if one.name == "scores"]
        return bound

    images = of_recaption.plan(mine, MACHINE, measured).rows
    assert planned("bf16", MACHINE).hours == pytest.approx(images / 337 / HOUR)
    assert planned("fp32", MACHINE).hours == pytest.approx(images / 102 / HOUR)
    assert planned("bf16", replace(MACHINE, gpus=8)).hours == pytest.approx(images / 337 / 8 / HOUR)
    assert planned("bf16", replace(MACHINE, gpus=0)).hours is None


@pytest.fixture
def prompted(mine: Params) -> Params:
    """Two captions of each image by a vision-language model in a folder."""
    captioner = VisionLanguageCaptioner.model_validate(
        {"kind": "vision_language", "name": "seer", "model": "seer",
         "prompts": {"short": "Describe it.", "dense": "Describe all of it."},
         "max_new_tokens": {"short": 36, "dense": 100}, "temperature": 0.0, "language": "en",
         "splits": ["train"], "batch_tokens": 4096, "precision": "bf16"}
    )  # fmt: skip
    model = {"name": "seer", "source": {"kind": "folder", "path": "seer"}}
    models = type(mine.base_models).model_validate(
        {**mine.base_models.model_dump(), "vision_language": [model]}
    )
    recaption = mine.recaption.model_copy(update={"captioners": [captioner]})
    return mine.model_copy(update={"recaption": recaption, "base_models": models})


def test_a_captioner_that_nobody_measured_is_unknown(prompted: Params, measured: PastThroughput) -> None:
    found = of_recaption.plan(prompted, MACHINE, measured)
    assert found.binding is None
    text = " ".join(" ".join(plan_lines("x", MACHINE, {"recaption": found})).split())
    assert "wall unknown, at least" in text and "run a part, and give --captions-per-second" in text
    assert any("this vision_language was not measured; LLaVA" in reason for reason in found.because)


def test_a_captioner_as_fast_as_the_user_says(prompted: Params, measured: PastThroughput) -> None:
    found = of_recaption.plan(prompted, replace(MACHINE, captions_per_second=100.0), measured)
    assert found.binding and found.binding.hours == pytest.approx(2e6 / 100 / HOUR)


def test_every_gpu_of_a_machine_writes(mine: Params, prompted: Params, measured: PastThroughput) -> None:
    for gpus in (1, 8):
        machine = replace(MACHINE, captions_per_second=100.0, gpus=gpus)
        found = of_recaption.plan(prompted, machine, measured)
        (bound,) = [one for one in found.bounds if one.name == "captioners"]
        assert bound.hours == pytest.approx(2e6 / 100 / gpus / HOUR)


def test_a_captioner_by_its_weights(prompted: Params, measured: PastThroughput) -> None:
    folder = Path("inputs/cc3m/seer")
    folder.mkdir(parents=True)
    save_file({"a": torch.zeros(30, 30), "b": torch.zeros(100)}, folder / "model.safetensors", {"x": "y"})
    found = of_recaption.plan(prompted, replace(MACHINE, gpu_flops=2e6), measured)
    # 2 x 1,000 weights x (32 + 68) tokens are 200,000 FLOP, ten a second
    assert found.binding and found.binding.hours == pytest.approx(2e6 / 10 / HOUR)
    assert any("2 x 1,000 weights for each of 100 tokens" in reason for reason in found.because)


def test_a_captioner_as_fast_as_it_was(prompted: Params, measured: PastThroughput) -> None:
    leave_run(measured, "recaption", {"rows_in": 10_000, "columns": {"seer_dense": {}, "seer_short": {}}})
    found = of_recaption.plan(prompted, MACHINE, measured)
    assert found.binding and found.binding.hours == pytest.approx(2e6 * 0.01 / HOUR)
    assert found.cpu_hours == pytest.approx(2e6 * 0.002 / HOUR)


def test_captions_that_were_judged_alone_are_not_counted_as_written() -> None:
    columns = {"dense": {"rows_in": 10_000}, "mllm_long": {"rows_in": 9_000}}
    metrics = {"rows_in": 19_000, "columns": columns}
    assert of_recaption._rows_of(metrics, ["dense"], {"mllm_long"}) == 10_000
    assert of_recaption._rows_of(metrics, ["dense"], set()) == 0


def test_audit_shares_its_images_among_the_cores(
    mine: Params, measured: PastThroughput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_audit, "IMAGE", Figure(1.0, "a test"))
    monkeypatch.setattr(of_audit, "CAPTION", Figure(0.1, "a test"))
    found = of_audit.plan(mine, MACHINE, measured)
    assert found.cpu_hours == pytest.approx((1000 + 300) / HOUR)  # three captions an image
    assert found.binding and found.binding.hours == pytest.approx((1000 / MACHINE.cores + 300) / HOUR)
    assert found.memory_bytes == pytest.approx(520e6 + 3e6 * 54)


def test_audit_takes_the_rate_of_ones_own_run(mine: Params, measured: PastThroughput) -> None:
    leave_run(measured, "download", DOWNLOADED)
    leave_run(measured, "audit", {"images": 10_000}, cpu_seconds=10.0)
    found = of_audit.plan(mine, MACHINE, measured)
    assert found.cpu_hours == pytest.approx(500 / HOUR)  # a millisecond each


def test_memory_that_a_machine_lacks_is_said(mine: Params, measured: PastThroughput) -> None:
    found = of_audit.plan(mine, MACHINE, measured)
    small = replace(MACHINE, memory_bytes=0.5e9)
    assert any(
        "682 MB a machine, more than it has" in line for line in plan_lines("x", small, {"audit": found})
    )


def test_a_list_with_a_limit_is_not_opened(mine: Params, measured: PastThroughput) -> None:
    Path("inputs/cc3m").mkdir(parents=True)
    Path("inputs/cc3m/list.parquet").write_bytes(b"no parquet")
    assert of_download.plan(mine, MACHINE, measured).rows == 1_000_000
    with pytest.raises(DataError, match="list.parquet is damaged .*; fetch it again"):
        of_download.plan(with_sources(mine, listed(None)), MACHINE, measured)


def test_rows_are_counted_where_no_limit_is_given(mine: Params, measured: PastThroughput) -> None:
    inputs = Path("inputs/cc3m")
    inputs.mkdir(parents=True)
    pq.write_table(pa.table({"url": ["http://a/"] * 7}), inputs / "list.parquet")
    (inputs / "list.csv").write_text("url,a,b\n" + 5 * "http://a/,x,y\n")
    for path, rows in (("list.parquet", 7), ("list.csv", 5)):
        assert of_download.plan(with_sources(mine, listed(None, path=path)), MACHINE, measured).rows == rows


@pytest.mark.parametrize(
    ("path", "expected"),
    [("list.parquet", "list.parquet not found"), ("list.csv.gz", "list.csv.gz cannot be counted")],
)
def test_rows_that_nobody_knows_are_an_error(
    mine: Params, measured: PastThroughput, path: str, expected: str
) -> None:
    Path("inputs/cc3m").mkdir(parents=True)
    Path("inputs/cc3m/list.csv.gz").touch()
    with pytest.raises(ConfigurationError) as caught:
        of_download.plan(with_sources(mine, listed(None, path=path)), MACHINE, measured)
    message = str(caught.value)
    assert expected in message and "download.sources mine" in message
    assert "set its limit to its number of rows" in message and "\n" not in message


def test_shards_that_lie_elsewhere_are_planned_by_their_limit(mine: Params, measured: PastThroughput) -> None:
    far = shards(path="s3://bucket/cc/*.tar", limit=20_000)
    found = of_download.plan(with_sources(mine, far), MACHINE, measured)
    assert found.rows == 20_000
    assert any("the shards of cc are fetched over the network first" in caution for caution in found.cautions)
    with pytest.raises(
        ConfigurationError, match=r"sources cc is unknown: its shards are remote; .*set its limit"
    ):
        of_download.plan(with_sources(mine, far.model_copy(update={"limit": None})), MACHINE, measured)


@pytest.mark.parametrize("preset", ["cc3m", "cc3m_cc12m", "full", "demo"])
def test_a_preset_is_planned_without_any_input(preset: str, measured: PastThroughput) -> None:
    params = load_params(ROOT / "presets" / f"{preset}.yaml")
    found = plan_stages(params, MACHINE, measured)
    assert list(found) == [
        "download",
        "recaption",
        "audit",
        "tune_llm",
        "embed_captions",
        "train_clip",
    ]
    assert list(Path().iterdir()) == []
    for stage, estimate in found.items():
        assert estimate.because, stage


def test_full_is_sixty_million_rows(measured: PastThroughput) -> None:
    params = load_params(ROOT / "presets" / "full.yaml")
    assert of_download.plan(params, MACHINE, measured).requests == 3_318_333 + 12_423_374 + 15_388_848 + 3e7


def test_the_command_names_a_preset_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["plan", "cc4m"])
    assert done.exit_code == 2
    assert "no preset cc4m; expected one of cc3m, cc3m_cc12m, demo" in done.stderr


def test_train_clip_knows_its_models_where_they_are(mine: Params, measured: PastThroughput) -> None:
    blind = of_train_clip.plan(mine, MACHINE, measured)
    of_captions = 2 * 1e6 * of_train_clip.CAPTION_BYTES.value  # raw and dense
    assert blind.memory_bytes == of_train_clip.BASE_BYTES + of_captions
    assert [line for line in blind.because if "are 16.4 GB: 4096 numbers of 2 bytes each: assumed" in line]
    assert blind.bytes_out.value == pytest.approx(1e6 * 3 * 224**2)
    for name, config in (
        ("Llama-3.2-1B", {"hidden_size": 2048}),
        ("clip-vit-large-patch14", {"vision_config": {"image_size": 336}}),
    ):
        write_json(Path("inputs/cc3m/models") / name / "config.json", config)
    found = of_train_clip.plan(mine, MACHINE, measured)
    assert found.memory_bytes == blind.memory_bytes
    assert [line for line in found.because if "are 8.2 GB: 2048 numbers of 2 bytes each: models/" in line]
    assert found.bytes_out.value == pytest.approx(1e6 * 3 * 336**2)
    assert found.binding is None
    look = mine.train_clip.augmentation.model_copy(update={"picture_size": 448})
    larger = mine.model_copy(update={"train_clip": mine.train_clip.model_copy(update={"augmentation": look})})
    crops = of_train_clip.plan(larger, MACHINE, measured)
    assert crops.bytes_out.value == pytest.approx(1e6 * 3 * 448**2)


def test_tuning_costs_its_passes_through_the_llm(mine: Params, measured: PastThroughput) -> None:
    machine = replace(MACHINE, gpus=2, gpu_flops=1e12, llm_weights=1e9)
    tuning = mine.tune_llm.model_copy(
        update={
            "method": "full",
            "gradient_cache": True,
            "gradient_checkpointing": False,
            "phases": [mine.tune_llm.phases[0].model_copy(update={"steps": 100, "batch_size": 50})],
        }
    )
    hub = HubModel(kind="hub", id="some/llm", revision="0" * 40)
    params = mine.model_copy(
        update={
            "tune_llm": tuning,
            "base_models": mine.base_models.model_copy(update={"llm": hub}),
        }
    )
    found = of_tune_llm.plan(params, machine, measured)
    assert found.rows == 10_000
    # forward, backward of activations and of weights, and forward again for the cache
    seconds = 10_000 * TOKENS * (4 * 2) * 1e9 / (2 * 1e12 * TUNING_SHARES[1.24e9])
    assert found.binding is not None and found.binding.hours == pytest.approx(seconds / 3600)
    of_captions = 3e6 * of_tune_llm.CAPTION_BYTES.value  # three an image
    assert found.memory_bytes == pytest.approx(4 * 4 * 1e9 + (2 + 1) * of_captions)  # two GPUs
    assert "on each GPU, 16 bytes each" in found.cautions[0]
    larger = of_tune_llm.plan(params, replace(machine, llm_weights=8e9), measured)
    assert larger.binding is not None  # a large LLM waits less for kernels to start
    share = TUNING_SHARES[7.5e9] / TUNING_SHARES[1.24e9]
    assert larger.binding.hours == pytest.approx(8 / share * seconds / 3600)
    nobody = of_tune_llm.plan(params, replace(machine, llm_weights=None, gpu_flops=None), measured)
    assert nobody.binding is None
    assert nobody.bounds[0].to_know == "give --gpu-tflops and --llm-billions, or run a part"


@pytest.mark.parametrize(
    ("precision", "on_gpu"),
    [
        ("bf16", "2 bytes each where they were published in bf16"),
        ("fp32", "4 bytes each"),
        (
            "auto",
            "at most 4 bytes each (auto may be bf16: 2 bytes each where they were published in bf16)",
        ),
    ],
)
def test_weights_beside_a_lora_are_float32_when_they_are_saved(
    mine: Params, measured: PastThroughput, precision: str, on_gpu: str
) -> None:
    hub = HubModel(kind="hub", id="some/llm", revision="0" * 40)
    tuning = mine.tune_llm.model_copy(update={"precision": precision})
    params = mine.model_copy(
        update={"tune_llm": tuning, "base_models": mine.base_models.model_copy(update={"llm": hub})}
    )
    assert tuning.method == "lora"
    found = of_tune_llm.plan(params, replace(MACHINE, llm_weights=1e9), measured)
    of_captions = 3e6 * of_tune_llm.CAPTION_BYTES.value
    assert found.memory_bytes == pytest.approx(4e9 + of_captions)
    assert found.cautions[0].startswith(f"weights are on each GPU, {on_gpu}, or shared by all")
    eight = of_tune_llm.plan(params, replace(MACHINE, llm_weights=1e9, gpus=8), measured)
    assert eight.memory_bytes == pytest.approx(4e9 + 9 * of_captions)
    assert any("9 times, for one process a GPU and their parent, 160 bytes" in why for why in eight.because)


def test_embed_captions_counts_bytes_and_hours(mine: Params, measured: PastThroughput) -> None:
    own = mine.embed_captions.model_copy(update={"llms": ["base", "tuned"]})
    params = mine.model_copy(update={"embed_captions": own})
    blind = of_embed_captions.plan(params, MACHINE, measured)
    assert blind.bytes_out.value == pytest.approx(blind.rows * 2 * (4096 * 2 + 40))
    assert blind.binding is None
    assert any("assumed, that of Llama-3-8B" in reason for reason in blind.because)
    model = Path("inputs/cc3m/models/Llama-3.2-1B")
    write_json(model / "config.json", {"hidden_size": 2048})
    save_file({"weight": torch.zeros(1000, 1000)}, model / "model.safetensors")
    found = of_embed_captions.plan(params, replace(MACHINE, gpu_flops=1e9), measured)
    assert found.bytes_out.value == pytest.approx(found.rows * 2 * (2048 * 2 + 40))
    assert found.binding is not None
    seconds = found.rows * 2 * 64 * 2 * 1e6 / (1e9 * EMBEDDING_SHARES[1.24e9])
    assert found.binding.hours == pytest.approx(seconds / HOUR)
    assert found.memory_bytes is not None and found.memory_bytes > 2e6
    eight = of_embed_captions.plan(params, replace(MACHINE, gpus=8), measured)
    assert eight.memory_bytes == pytest.approx(8 * found.memory_bytes)
    assert found.bytes_out.origin == "to this disk"
    bulk = params.model_copy(
        update={"download": params.download.model_copy(update={"data_root": "s3://bucket/prefix"})}
    )
    assert of_embed_captions.plan(bulk, MACHINE, measured).bytes_out.origin == "to s3://bucket/prefix"


def test_embed_captions_takes_the_rate_of_its_own_run(mine: Params, measured: PastThroughput) -> None:
    names = mine.embed_captions.names
    title = f"embed_captions by {', '.join(names)}"
    leave_costs(measured, "embed_captions", worked={title: 20_000})
    found = of_embed_captions.plan(mine, MACHINE, measured)
    assert found.binding is not None
    assert found.binding.hours == pytest.approx(found.rows * len(names) * 100.0 / 20_000 / HOUR)
    leave_costs(measured, "embed_captions", worked={title: 9})  # all but these were there: it says nothing
    assert of_embed_captions.plan(mine, MACHINE, measured).binding is None


def test_tuning_takes_the_rate_of_the_steps_that_its_own_run_took(
    mine: Params, measured: PastThroughput
) -> None:
    (phase,) = mine.tune_llm.phases
    blind = of_tune_llm.plan(mine, MACHINE, measured)
    steps = 10_000 // (2 * phase.batch_size) + 1  # of more than it has: the run went on from another's
    leave_costs(measured, "tune_llm", worked={"tune_llm_phase1": steps, "tune_llm reads train": 7})
    found = of_tune_llm.plan(mine, MACHINE, measured)
    assert found.binding is not None
    each = 100.0 / (steps * 2 * phase.batch_size)
    assert found.binding.hours == pytest.approx(found.rows * each / HOUR)
    for others in ({}, {"tune_llm_phase2": steps}, {"tune_llm_mntp": steps}):
        leave_costs(measured, "tune_llm", worked=others)
        assert of_tune_llm.plan(mine, MACHINE, measured) == blind
