"""Make a url list of a folder of photographs and their captions, and serve them while a command runs.

    python infra/serve_photographs.py --captions captions.parquet --images images --texts texts.parquet \
        --out inputs/NAME -- make run

The captions table is long: one row per image, language and kind, with the columns key, image, captions (a
list), language, split and, where there are several, kind. The program writes OUT/photographs.parquet (key,
url, split and one column of captions per language) and OUT/texts.parquet, with equal bytes in every run.
Image names are relative to the table's folder or to --images. They are served at http://127.0.0.1:PORT/.
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import ConfigurationError, InfrastructureError, PipelineError
from components.storage.atomic import new_file
from components.storage.side_tables import write_table

HOST = "127.0.0.1"
PORT = 8573  # fixed, because it is part of the urls; below the ports that outgoing connections take
COLUMNS = ("key", "image", "captions", "language", "split")
PHOTOGRAPHS, TEXTS = "photographs.parquet", "texts.parquet"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the list, serve the photographs, run the command, and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        splits = _splits(options.splits)
        table = photograph_table(
            options.captions, options.kind, splits, options.validation_rows, options.port
        )
        write_table(options.out / PHOTOGRAPHS, table)
        if options.texts:
            if not options.texts.is_file():
                raise ConfigurationError(
                    f"{options.texts} not found; expected a table of captions: fix --texts"
                )
            with new_file(options.out / TEXTS) as part:
                shutil.copyfile(options.texts, part)
        with serving([options.captions.parent, options.images], options.port):
            return run_command(options.command)
    except (PipelineError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code if isinstance(error, PipelineError) else InfrastructureError.exit_code


def photograph_table(
    captions: Path, kind: str, splits: dict[str, str], validation_rows: int, port: int
) -> pa.Table:
    """Return one row per photograph, in the order of the captions table.

    Args:
        captions: The long captions table.
        kind: The kind of captions to take.
        splits: Split of the table to split of the pipeline; photographs of other splits are left out.
        validation_rows: Number of train photographs to hold out, chosen by the hash of their keys.
        port: On which the photographs are served.

    Raises:
        ConfigurationError: the table is missing, lacks columns, or has no photograph of these splits.
    """
    if not captions.is_file():
        raise ConfigurationError(f"{captions} not found; expected a table of captions: fix --captions")
    try:
        table = pq.read_table(captions)
    except pa.ArrowException as error:
        raise ConfigurationError(
            f"{captions} is no parquet file ({str(error).splitlines()[0]}); expected a table of captions"
        ) from None
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        names = ", ".join(table.column_names)
        raise ConfigurationError(f"{captions} lacks {', '.join(missing)}; it has {names}: rename its columns")
    photographs: dict[str, dict[str, object]] = {}
    languages: set[str] = set()
    for row in table.to_pylist():
        if row["split"] not in splits or row.get("kind", kind) != kind:
            continue
        photograph = photographs.setdefault(
            row["key"],
            {"key": row["key"], "url": url_of(row["image"], port), "split": splits[row["split"]]},
        )
        row_captions = photograph.setdefault(row["language"], [])
        if isinstance(row_captions, list):
            row_captions.extend(row["captions"])
        languages.add(row["language"])
    if not photographs:
        table_splits = ", ".join(sorted(set(table.column("split").to_pylist())))
        raise ConfigurationError(
            f"{captions} has no {kind} captions in the splits {', '.join(splits)}; "
            f"its splits are {table_splits}: use --splits and --kind"
        )
    _hold_out(photographs, validation_rows)
    schema = [pa.field(name, pa.string()) for name in ("key", "url", "split")]
    schema += [pa.field(language, pa.list_(pa.string())) for language in sorted(languages)]
    return pa.Table.from_pylist(list(photographs.values()), schema=pa.schema(schema))


def url_of(image: str, port: int) -> str:
    """Return the url at which a photograph is served."""
    return f"http://{HOST}:{port}/{quote(image)}"


@contextmanager
def serving(folders: Sequence[Path], port: int) -> Iterator[None]:
    """Serve the JPEG and PNG files below some folders on loopback while the block runs.

    Raises:
        ConfigurationError: none of the folders exists.
        InfrastructureError: the port is taken.
    """
    roots = [folder.resolve() for folder in folders if folder.is_dir()]
    if len(roots) < len(folders):
        raise ConfigurationError(f"{folders[-1]} not found; expected a folder of photographs: fix --images")

    class Handler(_Photographs):
        folders = roots

    try:
        server = http.server.ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise InfrastructureError(
            f"port {port} of {HOST} cannot be used ({error.strerror}); stop what uses it, or give another "
            "--port and put it into download.fetch.allowed_ports of the preset"
        ) from None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run_command(command: Sequence[str]) -> int:
    """Run a command, forward SIGTERM and SIGINT to it, and return its exit code as a shell would."""
    if not command:
        return 0
    process = subprocess.Popen(command)
    old_handlers = {
        number: signal.signal(number, lambda received, _frame: process.send_signal(received))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        code = process.wait()
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


class _Photographs(http.server.BaseHTTPRequestHandler):
    """Answers with files of the folders, and with 404 for everything else."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folders: Sequence[Path] = ()

    def do_GET(self) -> None:  # noqa: N802 - the name http.server calls
        """Send one photograph."""
        name = unquote(urlsplit(self.path).path).lstrip("/")
        paths = [
            path
            for folder in self.folders
            if (path := (folder / name).resolve()).is_relative_to(folder)
            and path.suffix.lower() in (".jpg", ".jpeg", ".png")
            and path.is_file()
        ]
        body = paths[0].read_bytes() if paths else b""
        self.send_response(HTTPStatus.OK if paths else HTTPStatus.NOT_FOUND)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Log nothing: the ledger of download has the result of each row."""


def _splits(pairs: Sequence[str]) -> dict[str, str]:
    if invalid := [pair for pair in pairs if "=" not in pair]:
        raise ConfigurationError(f"--splits {invalid[0]}; expected table=pipeline, as in val=test: fix it")
    return dict(pair.split("=", 1) for pair in pairs)


def _hold_out(photographs: dict[str, dict[str, object]], count: int) -> None:
    train = [key for key, photograph in photographs.items() if photograph["split"] == "train"]
    for key in sorted(train, key=lambda key: hashlib.sha256(key.encode()).digest())[:count]:
        photographs[key]["split"] = "validation"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--captions", type=Path, required=True, help="long captions table, parquet")
    parser.add_argument("--images", type=Path, required=True, help="folder of the photographs")
    parser.add_argument("--texts", type=Path, help="table of captions without images, parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of inputs to write to")
    parser.add_argument("--port", type=int, default=PORT, help="on loopback")
    parser.add_argument("--kind", default="human", help="kind of captions to take")
    parser.add_argument(
        "--splits",
        nargs="+",
        default=["train=train", "val=test"],
        help="split of the table=split of the pipeline",
    )
    parser.add_argument("--validation-rows", type=int, default=500, help="held out of train, for choices")
    parser.add_argument("command", nargs="*", help="after --")
    return parser


if __name__ == "__main__":
    sys.exit(main())
