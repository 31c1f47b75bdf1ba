"""Count a source's rows without reading it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from components.errors import ConfigurationError, DataError
from components.planning.past_throughput import Figure
from components.settings.sources import Captioned, Scenes, SceneTexts, Source, Table
from components.sources.files import named_files
from components.sources.source_requirements import is_far

TEXT_TABLES = (".csv", ".tsv")
BLOCK_BYTES = 1 << 24


def rows_of(source: Source, inputs: Path) -> Figure:
    """Return the rows of a source; a file is looked at only where params give no limit.

    Args:
        source: From params.
        inputs: The folder its paths are relative to.

    Raises:
        ConfigurationError: it has neither a limit nor files whose rows can be counted.
        DataError: a file is damaged.
    """
    if isinstance(source, Scenes | SceneTexts):
        counts = source.counts
        return Figure(counts.train + counts.validation + counts.test, "as params count them")
    if source.limit is not None:
        return Figure(source.limit, "as params limit them, the files may hold fewer")
    return Figure(sum(_counted(source, path) for path in _tables(source, inputs)), "counted in the files")


def _tables(source: Captioned, inputs: Path) -> Iterator[Path]:
    try:
        if is_far(source):
            raise ConfigurationError("its shards are elsewhere; bring them here")
        yield from named_files(inputs, source.path, (".parquet", *TEXT_TABLES)).paths
    except ConfigurationError as fault:
        raise ConfigurationError(
            f"nobody can say how many rows download.sources {source.name} has: {fault}, or set its limit to "
            "its number of rows"
        ) from None


def _counted(source: Captioned, path: Path) -> int:
    """Return the rows of a table: of parquet what its footer says, of text its lines."""
    if path.suffix.lower() == ".parquet":
        return _footer_rows(path)
    if path.suffix.lower() not in TEXT_TABLES:
        raise ConfigurationError(
            f"download.sources {source.name}: the rows of {path.name} cannot be counted without "
            "reading it; expected parquet, csv or tsv, or a limit: set its limit to its number of rows"
        )
    with path.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK_BYTES), b""))
    has_header = not (isinstance(source, Table) and source.columns)
    return max(0, lines - has_header)


def _footer_rows(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        what = str(error).splitlines()[0]
        raise DataError(f"{path} is damaged ({what}); fetch it again") from None
