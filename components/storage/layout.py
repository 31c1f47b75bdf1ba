"""Every path of the repository, once."""

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
    """Paths below the project's folder, and those of the work store."""

    work_store: Path
    root: Path = Path()

    def inputs(self, name: str) -> Path:
        """The folder the user's data lies in."""
        return self.root / INPUTS / name

    def artifact(self, stage: str) -> Path:
        """What a stage made; a DVC out."""
        return self.root / "artifacts" / stage

    def metrics(self, stage: str) -> Path:
        """What is equal in every run."""
        return self.root / "metrics" / f"{stage}.json"

    def costs(self, stage: str) -> Path:
        """What one run cost: seconds, bytes, memory."""
        return self.root / "costs" / f"{stage}.json"

    @property
    def hashes(self) -> Path:
        """What this machine remembers of files that it verified."""
        return self.work_store / "hashes.txt"

    def work(self, stage: str) -> Path:
        """Where a stage builds, and what it resumes from."""
        return self.work_store / stage
