"""Public interface of LLM2CLIP: load a release, check a project, plan a run.

Example:
    >>> import llm2clip
    >>> model = llm2clip.load("artifacts/register")  # doctest: +SKIP
    >>> cosines = model.embed_images(["cat.jpg"]) @ model.embed_texts(["a cat"]).T  # doctest: +SKIP
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.ml.release import Release

__all__ = ["check", "load", "plan"]


def load(folder: str | os.PathLike[str], device: str = "cpu", llm_precision: str = "fp32") -> Release:
    """Load a release: an object with `embed_images` and `embed_texts`, rows of length 1 in one space.

    Args:
        folder: `artifacts/register`, or the folder of a version in the registry.
        device: `cpu` or `cuda`.
        llm_precision: `fp32`, or `bf16` for half the memory of the language model.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: a part is missing or damaged, or precision or device does not exist.
    """
    from components.ml.release import load_release

    return load_release(folder, device, llm_precision)


def check() -> list[str]:
    """Check the project in the current folder before a run; return one line for each check.

    Raises:
        PipelineError: something is missing or wrong; names all problems at once.
    """
    from components.cli.check import check
    from components.settings.environment import load_environment
    from components.settings.params import load_params
    from components.storage.layout import PARAMS

    return check(load_params(PARAMS), load_environment())


def plan(
    params: str | os.PathLike[str] = "params.yaml",
    *,
    cores: int | None = None,
    memory_gb: float | None = None,
    gpus: int = 0,
    network_mbit: float | None = None,
    machines: int = 1,
    captions_per_second: float | None = None,
    gpu_tflops: float | None = None,
    llm_billions: float | None = None,
) -> list[str]:
    """Estimate rows, bytes, hours and memory of each stage; return the lines that `llm2clip plan` prints.

    Args:
        params: A params file of the project in the current folder.
        cores: Cores of one machine; None: those of this one.
        memory_gb: Memory of one machine; None: that of this one.
        gpus: GPUs of one machine.
        network_mbit: Megabits a second of one machine; None: unknown.
        machines: Number of machines.
        captions_per_second: Measured speed of a captioner on one GPU.
        gpu_tflops: TFLOP/s of one GPU, to estimate the speed of a model.
        llm_billions: Billions of weights of the LLM, if its folder does not exist yet.

    Raises:
        PipelineError: the params are wrong, or a source's rows cannot be counted.
    """
    from components.planning.estimate import machine_of, plan_stages
    from components.planning.past_throughput import PastThroughput
    from components.planning.text import plan_lines
    from components.settings.environment import load_environment
    from components.settings.params import load_params
    from components.storage.layout import Layout

    settings = load_params(Path(params))
    machine = machine_of(
        cores, memory_gb, gpus, network_mbit, machines, captions_per_second, gpu_tflops, llm_billions
    )
    past = PastThroughput(Layout(load_environment().work_store))
    return plan_lines(settings.preset, machine, plan_stages(settings, machine, past))
