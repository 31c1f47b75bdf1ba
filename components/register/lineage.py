"""Lineage of a release: hashes of its params, data, models and code, and its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import components
from components.settings.params import Params
from components.storage.atomic import content_key, read_json, sha256_of
from components.storage.layout import MANIFEST, Layout
from components.storage.manifest import folder_key, read_manifest
from components.storage.side_tables import read_keys

FORMAT_VERSION = 1
VERSION_CHARACTERS = 16  # of a sha256 in hex


def lineage_of(
    params: Params, layout: Layout, gates: list[dict[str, Any]], metrics: dict[str, Any]
) -> dict[str, Any]:
    """Return everything that decides the release of the arm in params, as plain values.

    Args:
        params: All of them.
        layout: Where the artifacts are.
        gates: As `check_gates` returned them.
        metrics: Metrics of evaluate.
    """
    audit = layout.artifact("audit")
    audited_keys = [read_keys(audit / entry.uri) for entry in read_manifest(audit, "kept/")]
    files = read_json(layout.artifact("download") / MANIFEST)["files"]
    values = params.model_dump(mode="json")
    return {
        "format_version": FORMAT_VERSION,
        "name": params.register.name,
        "arm": params.register.arm,
        "preset": params.preset,
        "seed": params.seed,
        "params": values,
        "params_sha256": content_key(values),
        "data": {
            "sources": [source.name for source in params.download.sources],
            "images": sum(file["rows"] or 0 for file in files if file["uri"].endswith(".tar")),
            "images_kept": sum(map(len, audited_keys)),
            "kept_sha256": folder_key(audit, "kept/"),
        },
        "manifests_sha256": {
            stage: sha256_of(layout.artifact(stage) / MANIFEST)
            for stage in ("download", "base_models", "recaption", "tune_llm", "train_clip")
        },
        "gates": gates,
        "metrics": metrics["arms"][params.register.arm],
    }


def version_of(folder: Path, lineage: dict[str, Any]) -> str:
    """Return the version of a release: a hash of its lineage and of its files, without release.json."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = [[path.relative_to(folder).as_posix(), sha256_of(path)] for path in files]
    return content_key([hashes, lineage])[:VERSION_CHARACTERS]


def code_key() -> str:
    """Return one hash of the pipeline's code files; not part of a version, because DVC watches fewer."""
    package = Path(components.__file__).parent
    return content_key(
        [[path.relative_to(package).as_posix(), sha256_of(path)] for path in sorted(package.rglob("*.py"))]
    )
