"""Errors of the pipeline, each with its exit code."""

from __future__ import annotations


class PipelineError(Exception):
    """A failure that a person can act on: what was found, what was expected, what to do."""

    exit_code = 1


class ConfigurationError(PipelineError):
    """A wrong parameter, environment variable or missing input; running again changes nothing."""

    exit_code = 2


class DataError(PipelineError):
    """Data that is damaged, missing, or rejected more often than params allow."""

    exit_code = 3


class InfrastructureError(PipelineError):
    """Network, disk or service trouble; the same command may succeed later."""

    exit_code = 4


class GateError(PipelineError):
    """The work was done and its result is below the limit set in params."""

    exit_code = 5


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived; like KeyboardInterrupt, no `except Exception` may swallow it."""

    exit_code = 143
