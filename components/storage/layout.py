"""Paths of the repository and the work store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STAGES = (
    "download",
    "base_models",
    "recaption",
    "audit",
    "tune_llm",
    "embed_captions",
    "train_clip",
    "evaluate",
    "register",
)
PARAMS = Path("params.yaml")
INPUTS = Path("inputs")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Layout:
    """Paths below the project's folder and the work store."""

    work_store: Path
    root: Path = Path()

    def inputs(self, name: str) -> Path:
        """Folder of the user's data."""
        return self.root / INPUTS / name

    def artifact(self, stage: str) -> Path:
        """Folder of a stage's outputs; a DVC out."""
        return self.root / "artifacts" / stage

    def metrics(self, stage: str) -> Path:
        """Metrics file of a stage; equal in every run."""
        return self.root / "metrics" / f"{stage}.json"

    def costs(self, stage: str) -> Path:
        """Costs file of one run of a stage: seconds, bytes, memory."""
        return self.root / "costs" / f"{stage}.json"

    @property
    def hashes(self) -> Path:
        """Cache of the sha256 of files that this machine verified."""
        return self.work_store / "hashes.txt"

    def work(self, stage: str) -> Path:
        """Folder that a stage builds in and resumes from."""
        return self.work_store / stage
