"""Gallery of retrieved images: the first hits and misses by key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from components.evaluate.findings import Findings
from components.running.held_out import HeldOut, TaskCaptions
from components.running.page import inline_picture
from components.storage.side_tables import Caption

THUMB_PIXELS = 128


@dataclass(frozen=True)
class Thumb:
    """One image of a gallery row."""

    source: str  # data URI
    key: str
    is_true: bool


@dataclass(frozen=True)
class RetrievedImages:
    """Images that one arm retrieved for a caption."""

    arm: str
    rank: int  # of the true image, 1 for the first place
    thumbs: list[Thumb]
    missing: Thumb | None  # the true image, where it is not among the thumbs


@dataclass(frozen=True)
class RetrievedCard:
    """One caption with the images that each arm retrieved for it."""

    caption: Caption
    images: int  # number of images searched
    rows: list[RetrievedImages]


@dataclass(frozen=True)
class GallerySection:
    """The cards of one task."""

    task: str
    language: str
    control: str | None  # none where the subject is the only arm
    cards: list[RetrievedCard]


def gallery(
    findings: Findings, held_out: HeldOut, read: Callable[[set[str]], dict[str, bytes]]
) -> list[GallerySection]:
    """Choose captions of each task and collect the images that the subject and the best control retrieve."""
    chosen = {task.name: _choose(findings, task, findings.settings.gallery_rows) for task in findings.tasks}
    arms = {task.name: _gallery_arms(findings, task.name) for task in findings.tasks}
    shown_keys = {
        key
        for task in findings.tasks
        for number in chosen[task.name]
        for arm in arms[task.name]
        for key in _retrieved_keys(findings, held_out, task, arm, number)
    }
    thumbs = {key: inline_picture(jpeg, THUMB_PIXELS) for key, jpeg in read(shown_keys).items()}
    sections = []
    for task in findings.tasks:
        cards = []
        for number in chosen[task.name]:
            caption = task.captions[number]
            rows = [_gallery_row(findings, held_out, task, arm, number, thumbs) for arm in arms[task.name]]
            cards.append(RetrievedCard(caption, len(task.images), rows))
        control = arms[task.name][1] if findings.controls else None
        sections.append(GallerySection(task.name, task.captions[0].language, control, cards))
    return [section for section in sections if section.cards]


def _gallery_arms(findings: Findings, task: str) -> list[str]:
    return [findings.subject, *([findings.best_control(task)] if findings.controls else [])]


def _choose(findings: Findings, task: TaskCaptions, count: int) -> list[int]:
    """Return the first hits and the first misses of the subject, half each where there are enough."""
    ranks = findings.arms[findings.subject].ranks[task.name].tolist()
    firsts = [number for number, caption in enumerate(task.captions) if caption.number == 0]
    hits = [number for number in firsts if ranks[number] == 0]
    misses = [number for number in firsts if ranks[number] > 0]
    chosen_hits = hits[: max((count + 1) // 2, count - len(misses))]
    return chosen_hits + misses[: count - len(chosen_hits)]


def _retrieved_keys(
    findings: Findings, held_out: HeldOut, task: TaskCaptions, arm: str, number: int
) -> list[str]:
    """Return the keys of the images that an arm retrieved, with the key of the true image last."""
    images = [*findings.arms[arm].tops[task.name][number].tolist(), int(task.owners[number])]
    return [held_out.keys[int(task.images[image])] for image in images]


def _gallery_row(
    findings: Findings, held_out: HeldOut, task: TaskCaptions, arm: str, number: int, thumbs: dict[str, str]
) -> RetrievedImages:
    *keys, true_key = _retrieved_keys(findings, held_out, task, arm, number)
    retrieved = [Thumb(thumbs[key], key, key == true_key) for key in keys]
    missing = None if true_key in keys else Thumb(thumbs[true_key], true_key, True)
    return RetrievedImages(arm, int(findings.arms[arm].ranks[task.name][number]) + 1, retrieved, missing)
