"""Resolve `precision: auto` for this machine."""

from __future__ import annotations

import logging

from components.settings.params import Params

AUTO = "auto"
log = logging.getLogger("llm2clip")


def resolved(params: Params, stage: str, device: str) -> Params:
    """Return params in which the section of a stage names its precision instead of `auto`.

    Other sections stay as written: they are resolved where their stages run, maybe on another machine, and a
    release records the params as given.

    Args:
        params: As read; torch is imported only if the section says `auto`.
        stage: Stage whose section is resolved.
        device: Device of the stage; with several GPUs, the current one of this process.
    """
    section = getattr(params, stage)
    if getattr(section, "precision", None) != AUTO:
        return params
    from components.ml.distributed import rank
    from components.ml.precision import fast_precision

    precision = fast_precision(device)
    if rank() == 0:
        log.info("%s.precision is auto: %s on this machine's %s", stage, precision, device)
    return params.model_copy(update={stage: section.model_copy(update={"precision": precision})})
