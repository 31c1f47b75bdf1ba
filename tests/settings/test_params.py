"""Every mistake in params.yaml is told with its line and nearest key, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from components.errors import ConfigurationError
from components.settings.params import load_params
from tests.conftest import ROOT

DEMO = (ROOT / "presets" / "demo.yaml").read_text("utf-8")


def fault_of(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as caught:
        load_params(path)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            "  new_projection: false",
            "  new_projektion: false",
            ["train_clip.new_projektion;", "mean new_projection"],
        ),
        ("  shard_rows: 1000", "  shard_rows: '1000'", ["download.shard_rows", "'1000'"]),
        ("  shard_rows: 1000", "  shard_rows: 0", ["download.shard_rows", "greater than 0"]),
        ("  shard_rows: 1000", "  shard_rows: true", ["download.shard_rows"]),
        ("  shard_rows: 1000", "  shard_rows: 8.0", ["download.shard_rows"]),
        ("  shard_rows: 1000", "  shard_row: 8", ["shard_row", "did you mean shard_rows"]),
        ("  temperature: 0.05", "  temperature: .nan", ["tune_llm.temperature", "finite"]),
        ("  temperature: 0.05", "  temperature: .inf", ["tune_llm.temperature", "finite"]),
        ("  temperature: 0.05", "  temperature: -1.0", ["tune_llm.temperature"]),
        ("  symmetric: true", '  symmetric: "no"', ["tune_llm.symmetric"]),
        ("seed: 7", "seed: 7\nseed: 8", ["params.yaml:", "not valid YAML"]),
        ("seed: 7", "seed: &x 7", ["params.yaml:3 uses a YAML anchor"]),
        ("seed: 7", "seed: &1 7", ["anchor"]),
        ("seed: 7", "seed: 4294967296", ["seed", "less than 4294967296"]),
        ("seed: 7", "seed: 7\nnote: hf_abcdefghijklmnopqrstuvwx", ["secret"]),
        ("  arm: llm2clip", "  arm: llm2klip", ["register.arm is llm2klip"]),
        ("llms: [base, tuned]", "llms: [base]", ["needs tuned"]),
        ("data_root: null", "data_root: bucket/x", ["download.data_root", "expected s3://bucket/prefix"]),
        ("data_root: null", "data_root: s3://bucket/x/", ["without a slash at its end"]),
        ("data_root: null", "data_root: s3://key:canary@bucket/x", ["params.yaml:7 holds", "secret"]),
        ("{train: 4000,", "{train: -1,", ["counts.train"]),
        ("name: tiny,", "name: ../x,", ["recaption.captioners.0.name"]),
    ],
)
def test_faults_are_named(tmp_path: Path, before: str, after: str, expected: list[str]) -> None:
    assert before in DEMO
    message = fault_of(tmp_path, DEMO.replace(before, after, 1))
    for part in expected:
        assert part in message


def test_every_missing_and_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    text = DEMO
    for removed in ("  max_reject_share: 0.1\n", "seed: 7\n"):
        assert removed in text
        text = text.replace(removed, "", 1)
    text = text.replace("  symmetric: true", '  symmetric: "no"').replace(
        "preset: demo", "preset: demo\nsed: 7"
    )
    first, others = fault_of(tmp_path, text).split("\n")
    line = text.splitlines().index('  symmetric: "no"') + 1
    assert first.endswith("unknown key sed; did you mean seed?")
    assert others == (
        f"missing as well: seed, download.max_reject_share; wrong as well: tune_llm.symmetric (line {line})"
    )


def test_a_comment_or_a_text_may_hold_the_signs_of_anchors(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        DEMO.replace("seed: 7", "seed: 7 # see *this and &that").replace("licence: ", "licence: A &B ")
    )
    assert load_params(path).register.licence.startswith("A &B")


def test_the_line_of_a_mistyped_key_is_named(tmp_path: Path) -> None:
    text = DEMO.replace("  warmup_steps: 15\n  adapter", "  warmup_stebs: 15\n  adapter")
    line = text.splitlines().index("  warmup_stebs: 15") + 1
    assert f"params.yaml:{line}: unknown key train_clip.warmup_stebs" in fault_of(tmp_path, text)


@pytest.mark.parametrize("text", ["", "a: [", "a:\n\tb: 1", b"\xff\xfe", "- 1", "x" * 1_000_001])
def test_no_params_file_at_all(tmp_path: Path, text: str | bytes) -> None:
    fault_of(tmp_path, text)


def test_byte_order_mark_and_crlf_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + DEMO.replace("\n", "\r\n").encode())
    assert load_params(path).preset == "demo"


def _leaves(node: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    if isinstance(node, dict):
        return [leaf for key, child in node.items() for leaf in _leaves(child, (*at, key))]
    if isinstance(node, list):
        return [leaf for key, child in enumerate(node) for leaf in _leaves(child, (*at, key))]
    return [at]


LEAVES = _leaves(YAML(typ="safe").load(DEMO))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(leaf=st.sampled_from(LEAVES), value=st.sampled_from([{"x": 1}, [[]], float("nan"), -7.5]))
def test_no_wrong_type_anywhere_is_accepted(tmp_path: Path, leaf: tuple[object, ...], value: object) -> None:
    tree = YAML(typ="safe").load(DEMO)
    node = tree
    for step in leaf[:-1]:
        node = node[step]
    # -7.5 may stand where a difference is wanted
    if value == -7.5 and leaf[-1] == "min_caption_retrieval_gain":
        return
    node[leaf[-1]] = value
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(tree, file)
    with pytest.raises(ConfigurationError):
        load_params(path)
