"""Check the first rows of the sources against params, and find their caption columns.

The code of download reads the rows. The first ten thousand rows of a table take a tenth of a second; fewer
are read of images with captions in files beside them.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from components.cli.caption_groups import Group, groups_of_rows, possible_groups
from components.cli.check_paths import is_there
from components.cli.problems import Problem, advice, listed
from components.errors import ConfigurationError, DataError, PipelineError
from components.planning.images import rows_of
from components.settings.base_models import MadeClip, MadeLlm
from components.settings.params import Params
from components.settings.sources import (
    Captioned,
    Coco,
    Karpathy,
    Members,
    Pinned,
    Shards,
    Source,
    Table,
    TextSource,
)
from components.sources.files import named_files
from components.sources.input_paths import Location
from components.sources.rows import ImageFile, Rejection, Row, read_rows
from components.sources.sample_files import TEXT_KINDS
from components.sources.source_requirements import images_folder, is_far
from components.sources.tables import KINDS, read_tables

HEAD_ROWS, HEAD_SAMPLES = 10_000, 1_000
MAX_FILES = 100  # files of one source whose columns are checked
MAX_JSON_BYTES = 20_000_000  # largest annotation file read; JSON is read whole
MAX_COUNTED_BYTES = 200_000_000  # most text whose lines are counted
REASONS_SHOWN = 3
HEAD_MEMBERS = 20  # files beside images whose fields are listed if a column is missing

CaptionedT = TypeVar("CaptionedT", bound=Captioned)


@dataclass(frozen=True)
class Looked:
    """What the sources hold.

    Attributes:
        problems: What does not fit params.
        groups: The rows of `download.sources`; for a source with a problem, as params describe them.
        notes: Sources that were not read, with the reason.
    """

    problems: list[Problem]
    groups: list[Group]
    notes: list[str]


def look_at_sources(params: Params, inputs: Path) -> Looked:
    """Read the first rows of all sources, including the texts of models that base_models makes.

    A missing file is skipped: `check_paths` reports it.

    Args:
        params: Params of the run.
        inputs: Folder that paths are relative to.
    """
    looked = Looked([], [], [])
    for index, source in enumerate(params.download.sources):
        looked.groups.extend(_look(source, inputs, ("download", "sources", index), params.seed, looked))
    for name in ("llm", "clip"):
        model = getattr(params.base_models, name)
        if isinstance(model, MadeLlm | MadeClip):
            texts: Location = ("base_models", name, "texts")
            groups = [
                group
                for index, source in enumerate(model.texts)
                for group in _look(source, inputs, (*texts, index), params.seed, looked)
            ]
            if not any(group.split == "train" for group in groups):
                looked.problems.append(
                    Problem(texts, "no row is of split train; expected captions to make a vocabulary from")
                )
    return looked


def _look(
    source: Source | TextSource, inputs: Path, location: Location, seed: int, looked: Looked
) -> list[Group]:
    """Return the groups of a source; add its problems and notes to `looked`."""
    if not isinstance(source, Captioned):
        return possible_groups(source, None)
    promised = possible_groups(source, _rows_at_most(source, inputs))
    if reason := _skip_reason(source, inputs):
        looked.notes.append(f"{source.name} is not checked: {reason}")
        return promised
    if not is_there(inputs, source.path):
        return promised
    by_text: dict[str, Problem] = {}  # a damaged file is reported at each of its columns
    for problem in _missing_columns(source, inputs, location, seed):
        by_text.setdefault(problem.text, problem)
    looked.problems.extend(by_text.values())
    if by_text or not is_there(inputs, images_folder(source) or "."):
        return promised
    try:
        rows, rejections, is_whole = _head(source, inputs, seed)
    except PipelineError as error:
        looked.problems.append(Problem((*location, "path"), str(error)))
        return promised
    problems = list(_problems_of(source, inputs, location, rows, rejections))
    looked.problems.extend(problems)
    return groups_of_rows(source, rows) if rows and is_whole and not problems else promised


def _skip_reason(source: Captioned, inputs: Path) -> str:
    """Return why a source is not checked; empty if it is."""
    if is_far(source):
        return "its shards are remote"
    if isinstance(source, Coco | Karpathy) and (inputs / source.path).is_file():
        size = (inputs / source.path).stat().st_size
        return f"{source.path} has {size / 1e6:,.0f} MB" if size > MAX_JSON_BYTES else ""
    return ""


def _head(source: Captioned, inputs: Path, seed: int) -> tuple[list[Row], list[Rejection], bool]:
    """Return the first rows and rejections of a source, and True if these are all."""
    is_whole = True
    changes: dict[str, Any] = {"sha256": None} if isinstance(source, Pinned) else {}
    if isinstance(source, Shards):  # only the first shard
        shards = named_files(inputs, source.path, (".tar",)).paths
        changes["path"], is_whole = shards[0].relative_to(inputs).as_posix(), len(shards) == 1
    limit = HEAD_SAMPLES if isinstance(source, Members) else HEAD_ROWS
    read: Any = read_rows(source.model_copy(update=changes), inputs, seed)  # type: ignore[arg-type]
    results = list(islice(read, limit + 1))
    rows = [row for row in results[:limit] if isinstance(row, Row)]
    rejections = [row for row in results[:limit] if isinstance(row, Rejection)]
    return rows, rejections, is_whole and len(results) <= limit


def _missing_columns(source: Captioned, inputs: Path, location: Location, seed: int) -> Iterator[Problem]:
    """Yield a problem for each column of params that a table or an annotation file does not have."""
    if isinstance(source, Table):
        yield from _missing_table_columns(source, inputs, location)
    elif isinstance(source, Coco | Karpathy):
        for index, caption in enumerate(source.captions):
            try:
                changes = {"captions": [caption], "limit": 1, "images": None}  # images may be missing
                _head(source.model_copy(update=changes), inputs, seed)
            except ConfigurationError as error:
                yield Problem((*location, "captions", index, "column"), str(error))
            except DataError:
                return  # reported once, where the rows are read


def _missing_table_columns(source: Table, inputs: Path, location: Location) -> Iterator[Problem]:
    try:
        paths = named_files(inputs, source.path, KINDS).paths
    except ConfigurationError as error:
        yield Problem((*location, "path"), str(error))
        return
    for path in paths[:MAX_FILES]:
        # a JSON object may lack a column that later objects have
        row_count = HEAD_ROWS + 1 if ".jsonl" in path.name.lower() else 1
        for param, column in _column_params(source):
            try:
                for _ in islice(read_tables([path], [column], source.columns), row_count):
                    pass
            except ConfigurationError as error:
                yield Problem((*location, *param), str(error))
            except DataError:
                break  # reported once, where the rows are read


def _column_params(source: Table) -> Iterator[tuple[Location, str]]:
    """Yield each param that names a column, with the column."""
    for name in ("key_column", "split_column", "url_column", "sha256_column", "image_column"):
        if (column := getattr(source, name, None)) is not None:
            yield (name,), column
    for index, caption in enumerate(source.captions):
        yield ("captions", index, "column"), caption.column


def _problems_of(
    source: Captioned, inputs: Path, location: Location, rows: list[Row], rejections: list[Rejection]
) -> Iterator[Problem]:
    """Yield what is wrong with the first rows of a source."""
    if isinstance(source, Members):
        yield from _missing_member_columns(source, inputs, location, rows, rejections)
    elif not rows and rejections:
        yield _no_usable_row(source, inputs, location, rejections)
    files = [row.image for row in rows if isinstance(row.image, ImageFile)]
    if files and not any(os.path.isfile(file.path) for file in files):
        images = images_folder(source)  # type: ignore[arg-type]
        if images is not None:
            yield Problem((*location, "images"), _missing_picture(inputs, images, files))


def _missing_member_columns(
    source: Members, inputs: Path, location: Location, rows: list[Row], rejections: list[Rejection]
) -> Iterator[Problem]:
    """Yield columns that none of the first samples has, or why no sample is a row."""
    present = {caption.column for row in rows for caption in row.captions}
    missing = [index for index, caption in enumerate(source.captions) if caption.name not in present]
    known = _columns_beside(source, inputs) if missing else set()
    unknown = [index for index in missing if source.captions[index].column not in known]
    for index in unknown:
        column = source.captions[index].column
        yield Problem(
            (*location, "captions", index, "column"),
            f"none of the first {len(rows) + len(rejections):,} samples of {inputs / source.path} has "
            f"{column}{_reasons(rejections)}; there are {listed(known)}: {advice(column, known)}",
        )
    if not rows and not unknown:
        yield _no_usable_row(source, inputs, location, rejections)


def _columns_beside(source: Members, inputs: Path) -> set[str]:
    """Return the possible caption columns of a source, from the first files beside its images."""
    if isinstance(source, Shards):
        return _columns_in_shard(named_files(inputs, source.path, (".tar",)).paths[0])
    columns: set[str] = set()
    for folder, _, names in os.walk(inputs / source.path):
        for name in sorted(names)[:HEAD_MEMBERS]:
            extension = name.rpartition(".")[2].lower()
            if extension in TEXT_KINDS:
                columns |= _fields(extension, Path(folder, name).read_bytes() if extension == "json" else b"")
        if columns:
            break
    return columns


def _columns_in_shard(path: Path) -> set[str]:
    columns: set[str] = set()
    with tarfile.open(path) as shard:
        for member in islice(shard, HEAD_MEMBERS):
            extension = member.name.rpartition(".")[2].lower()
            if extension in TEXT_KINDS and (file := shard.extractfile(member)):
                columns |= _fields(extension, file.read() if extension == "json" else b"")
    return columns


def _fields(extension: str, data: bytes) -> set[str]:
    if extension != "json":
        return {extension}
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return set()
    return {f"json.{name}" for name in tree} if isinstance(tree, dict) else set()


def _no_usable_row(
    source: Captioned, inputs: Path, location: Location, rejections: list[Rejection]
) -> Problem:
    return Problem(
        (*location, "path"),
        f"none of the first {len(rejections):,} rows of {inputs / source.path} can be used"
        f"{_reasons(rejections)}; first {rejections[0].where}: fix params or the data",
    )


def _reasons(rejections: list[Rejection]) -> str:
    counts = Counter(rejection.reason for rejection in rejections).most_common(REASONS_SHOWN)
    return f" ({', '.join(f'{reason} {count:,}' for reason, count in counts)})" if counts else ""


def _missing_picture(inputs: Path, images: str, files: list[ImageFile]) -> str:
    name = files[0].name
    others = f", nor any other of the first {len(files):,} pictures" if len(files) > 1 else ""
    return (
        f"{inputs / images / name} not found{others}; expected what {name} names below {inputs / images}: "
        f"{_hint(inputs, images, name)}"
    )


def _hint(inputs: Path, images: str, name: str) -> str:
    """Return how to make a picture be found, or what to check."""
    if os.path.isfile(inputs / name):
        return "did you mean images: null?"
    file_name = PurePosixPath(name).name
    if os.path.isfile(inputs / images / file_name):
        return f"{inputs / images} holds {file_name}; remove the folder from the names, or make it"
    for folder in sorted(entry.name for entry in os.scandir(inputs) if entry.is_dir()):
        if os.path.isfile(inputs / folder / name):
            return f"did you mean images: {folder}?"
    return "put the pictures there or fix images"


def _rows_at_most(source: Captioned, inputs: Path) -> int | None:
    """Return an upper bound of the rows of a source if that is cheap, else None."""
    if source.limit is not None:
        return source.limit
    if not isinstance(source, Table):
        return None
    try:
        paths = named_files(inputs, source.path, KINDS).paths
        if any(path.suffix != ".parquet" for path in paths):
            if sum(path.stat().st_size for path in paths) > MAX_COUNTED_BYTES:
                return None
            return int(rows_of(source, inputs).value) + len(paths)  # type: ignore[arg-type]  # a last line may have no line break
        return int(rows_of(source, inputs).value)  # type: ignore[arg-type]
    except PipelineError:
        return None
