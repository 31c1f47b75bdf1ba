"""Resolve `precision: auto` for this machine."""

from __future__ import annotations

import logging

from components.settings.params import Params

AUTO = "auto"
log = logging.getLogger("llm2clip")


def resolved(params: Params, stage: str, device: str) -> Params:
    """Return params in which the section of a stage names the precision that it computes in.

    The other sections stay as they were written: what theirs comes to is settled where those stages run,
    which may be on another machine, and a release says what params were given.

    Args:
        params: As they were read; torch is imported only where the section says `auto`.
        stage: Whose section it is.
        device: On which it computes; with several GPUs, the current one of this process.
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
