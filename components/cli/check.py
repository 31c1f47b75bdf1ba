"""Check params, environment, tools, disk, inputs and models before a run."""

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
    """Check all that can be checked without running a stage; return one line for each check.

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
    environment_bin = str(Path(sys.executable).parent)
    if not (shutil.which("dvc") or shutil.which("dvc", path=environment_bin)):
        raise ConfigurationError("dvc is not on PATH; expected it for `dvc repro`: `make setup` installs it")
    if not DVC.is_dir():
        raise ConfigurationError(
            "this folder is no DVC project; expected .dvc: start in the folder that holds dvc.yaml, or run "
            "`dvc init`"
        )
    _git()
    torch = version("torch").partition("+")[0]
    note = "" if torch == TORCH else f" (the project is tested with {TORCH}: other bits, same method)"
    return (
        f"python {sys.version_info.major}.{sys.version_info.minor}, torch {torch}{note}, dvc {version('dvc')}"
    )


def _git() -> None:
    """Check that DVC finds its git repository, or is configured to work without one."""
    from dvc.config import Config, ConfigError  # not needed by any stage
    from dvc.scm import SCM, SCMError

    try:
        core = Config(str(DVC))["core"]
        SCM(".", no_scm=core.get("no_scm", False))
    except ConfigError as error:
        raise ConfigurationError(f"DVC cannot read its settings ({error}); fix {DVC}/config") from None
    except SCMError:
        raise ConfigurationError(
            "this folder is in no git repository; DVC needs one: run `git init`, or "
            "`dvc config core.no_scm true` to work without git"
        ) from None


def _device(env: Environment) -> str:
    if count := gpus_in_use(env):
        return f"device: cuda, {count} GPUs"
    idle = known_gpus()
    note = f"; {idle} GPUs are idle: LLM2CLIP_DEVICE=cuda uses them" if idle else ""
    return f"device: cpu, {usable_cores()} cores{note}"


def _disk(layout: Layout) -> str:
    layout.work_store.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(layout.work_store).free
    if free < MIN_FREE_BYTES:
        raise InfrastructureError(
            f"the disk of {layout.work_store} has {free / 1e9:.1f} GB free; "
            f"expected {MIN_FREE_BYTES / 1e9:.0f}: free space, or set LLM2CLIP_WORK_STORE to another disk"
        )
    return f"disk: {free / 1e9:.0f} GB free"


def _inputs(params: Params, env: Environment, layout: Layout) -> str:
    """Return the line about the inputs; raise one error with all problems that would stop a later stage."""
    folder = layout.inputs(params.download.inputs)
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} not found (download.inputs): make it and put the data there")
    sources = look_at_sources(params, folder)
    refuse(
        [
            *check_paths(params, folder),
            *sources.problems,
            *absent_buckets(params),
            *absent_models(params, folder),
            *absent_programs(params, env),
            *check_columns(params, sources.groups),
            *check_release(params),
        ]
    )
    return "; ".join([f"inputs: {folder}, {len(params.download.sources)} sources", *sources.notes])


def _data_root(params: Params) -> str:
    uri = params.download.data_root
    return f"data root: {open_data_root(uri).uri}, writable" if uri else "data root: this machine"


def _models(params: Params) -> str:
    section = params.base_models
    others = [
        f"{model.name} {model.source.kind}" for model in (*section.vision_language, *section.text_encoders)
    ]
    return f"models: {', '.join([f'llm {section.llm.kind}', f'clip {section.clip.kind}', *others])}"


def _captioners(params: Params) -> str:
    names = [f"{captioner.name} {captioner.kind}" for captioner in params.recaption.captioners]
    return f"captioners: {', '.join(names) or 'none'}"


def _proxies(params: Params) -> str:
    from components.http.proxies import Proxies  # imports an HTTP client

    remote = [source for source in params.download.sources if is_fetched(source) or is_far(source)]
    clients = [*params.recaption.captioners, *params.embed_captions.others]
    if not remote and not any(isinstance(client, EndpointCaptioner | EndpointEncoder) for client in clients):
        return "proxies: none needed"
    proxies = Proxies().all()
    for proxy in proxies:
        if not proxy.answers():
            raise proxy.no_answer()
    return f"proxies: {', '.join(f'{proxy.address} ({proxy.variable})' for proxy in proxies) or 'none'}"


def _encoders(params: Params) -> str:
    settings = params.embed_captions
    others = [f"{encoder.name} {encoder.kind}" for encoder in settings.others]
    return f"encoders: {', '.join([*settings.llms, *others])}"
