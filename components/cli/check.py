"""Checks of the set-up before anything runs: params, environment, tools, disk, inputs, models."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from components.cli.check_columns import check_columns
from components.cli.check_gates import check_release, gate_lines
from components.cli.check_models import absent_buckets, absent_models, absent_programs
from components.cli.check_paths import check_paths
from components.cli.check_sources import look_at_sources
from components.cli.problems import refuse
from components.errors import ConfigurationError, InfrastructureError
from components.running.gpus import gpus_in_use, known_gpus
from components.running.workers import usable_cores
from components.settings.embed_captions import EndpointEncoder
from components.settings.environment import Environment
from components.settings.params import Params
from components.settings.recaption import EndpointCaptioner
from components.sources.source_requirements import is_far, is_fetched
from components.storage.buckets.bucket import open_bucket
from components.storage.bulk import open_data_root
from components.storage.layout import Layout

MIN_FREE_BYTES = 1_000_000_000
TORCH = "2.13.0"
DVC = Path(".dvc")


def check(params: Params, env: Environment) -> list[str]:
    """Check what can be checked without running a stage; return one line for each thing that was looked at.

    Raises:
        ConfigurationError: a tool, an input, a model or a bucket is missing, or may not be written to.
        InfrastructureError: the disk is nearly full, or a bucket does not answer.
    """
    layout = Layout(env.work_store)
    return [
        f"params.yaml: preset {params.preset}, seed {params.seed}, {len(params.train_clip.arms)} arms",
        _tools(),
        _device(env),
        _disk(layout),
        _inputs(params, env, layout),
        _models(params),
        _data_root(params),
        _captioners(params),
        *gate_lines(params),
        _encoders(params),
        _proxies(params),
        f"registry: {open_bucket(env.registry).uri}",
    ]


def _tools() -> str:
    beside = str(Path(sys.executable).parent)
    if not (shutil.which("dvc") or shutil.which("dvc", path=beside)):
        raise ConfigurationError("dvc is not on PATH; expected it for `dvc repro`: `make setup` installs it")
    if not DVC.is_dir():
        raise ConfigurationError(
            "this folder is no DVC project: start in the folder that holds dvc.yaml, or `dvc init`"
        )
    _git()
    torch = version("torch").partition("+")[0]
    note = "" if torch == TORCH else f" (the project is tested with {TORCH}: other bits, same method)"
    return (
        f"python {sys.version_info.major}.{sys.version_info.minor}, torch {torch}{note}, dvc {version('dvc')}"
    )


def _git() -> None:
    """Check that DVC finds the git repository that it works in, or was told to do without one."""
    from dvc.config import Config, ConfigError  # imports what no stage needs
    from dvc.scm import SCM, SCMError

    try:
        core = Config(str(DVC))["core"]
        SCM(".", no_scm=core.get("no_scm", False))
    except ConfigError as error:
        raise ConfigurationError(f"DVC cannot read its settings ({error}); correct {DVC}/config") from None
    except SCMError:
        raise ConfigurationError(
            "this folder is in no git repository, without which DVC stops; `git init` makes one, or "
            "`dvc config core.no_scm true` has DVC do without"
        ) from None


def _device(env: Environment) -> str:
    if found := gpus_in_use(env):
        return f"device: cuda, {found} GPUs"
    idle = known_gpus()
    note = f"; {idle} GPUs are here and stay idle: LLM2CLIP_DEVICE=cuda uses them" if idle else ""
    return f"device: cpu, {usable_cores()} cores{note}"


def _disk(layout: Layout) -> str:
    layout.work_store.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(layout.work_store).free
    if free < MIN_FREE_BYTES:
        raise InfrastructureError(
            f"the disk of {layout.work_store} has {free / 1e9:.1f} GB free; "
            f"expected {MIN_FREE_BYTES / 1e9:.0f}: free some, or point LLM2CLIP_WORK_STORE at another disk"
        )
    return f"disk: {free / 1e9:.0f} GB free"


def _inputs(params: Params, env: Environment, layout: Layout) -> str:
    """Say what was looked at, or all at once what would stop a later stage."""
    folder = layout.inputs(params.download.inputs)
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} not found (download.inputs): make it and put the data there")
    looked = look_at_sources(params, folder)
    refuse(
        [
            *check_paths(params, folder),
            *looked.problems,
            *absent_buckets(params),
            *absent_models(params, folder),
            *absent_programs(params, env),
            *check_columns(params, looked.groups),
            *check_release(params),
        ]
    )
    return "; ".join([f"inputs: {folder}, {len(params.download.sources)} sources", *looked.notes])


def _data_root(params: Params) -> str:
    uri = params.download.data_root
    return f"data root: {open_data_root(uri).uri}, may be written to" if uri else "data root: this machine"


def _models(params: Params) -> str:
    section = params.base_models
    named = [f"{one.name} {one.source.kind}" for one in (*section.vision_language, *section.text_encoders)]
    return f"models: {', '.join([f'llm {section.llm.kind}', f'clip {section.clip.kind}', *named])}"


def _captioners(params: Params) -> str:
    names = [f"{one.name} {one.kind}" for one in params.recaption.captioners]
    return f"captioners: {', '.join(names) or 'none'}"


def _proxies(params: Params) -> str:
    from components.http.proxies import Proxies  # an HTTP client

    far = [one for one in params.download.sources if is_fetched(one) or is_far(one)]
    asked = [*params.recaption.captioners, *params.embed_captions.others]
    if not far and not any(isinstance(one, EndpointCaptioner | EndpointEncoder) for one in asked):
        return "proxies: none needed"
    proxies = Proxies().all()
    for proxy in proxies:
        if not proxy.answers():
            raise proxy.no_answer()
    return f"proxies: {', '.join(f'{one.address} ({one.variable})' for one in proxies) or 'none'}"


def _encoders(params: Params) -> str:
    own = params.embed_captions
    return f"encoders: {', '.join([*own.llms, *(f'{one.name} {one.kind}' for one in own.others)])}"
