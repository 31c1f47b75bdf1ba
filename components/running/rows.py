"""Row accounting: rows in = rows out + rows rejected by reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from typing import Any

from components.errors import DataError
from components.settings.params import Params
from components.sources.row import without_credentials
from components.storage.atomic import write_json
from components.storage.layout import Layout

REJECTED = "rejected.json"
IN_MESSAGE = 3  # reasons explained in a message; the file explains all
NAMED = re.compile(r"\{([a-z_.]+)\}")  # a param in a rule, printed with its value
STATUS = re.compile(r"http_\d{3}")
FORMAT = re.compile(r"format_\w*")  # `format_heic`: the reason names the format
UNKNOWN = "the content of the row"
_SOURCE = "of its entry in download.sources"
_RETRIES = "the server or network; raise {download.retry_rounds} to retry in the next run"
_UTF8 = "its captions must be text in UTF-8"
_ROW = {  # reasons from reading the rows of a source
    "bad_json": "its .json must hold an object",
    "bad_key": f"its key, of 1 to 128 characters in key_column {_SOURCE}; null has keys made",
    "bad_sha256": f"64 hexadecimal digits in sha256_column {_SOURCE}",
    "bad_utf8": _UTF8,
    "caption_missing": "its caption file, which must be there",
    "empty_caption": f"a caption in at least one column of captions {_SOURCE}",
    "image_missing": f"images {_SOURCE}: no file of that path",
    "lone_surrogate": _UTF8,
    "no_image": "an image in each sample of a shard",
    "no_image_name": f"image_column {_SOURCE}",
    "no_such_image": f"an annotation's image_id, which no image has in path {_SOURCE}",
    "no_url": f"url_column {_SOURCE}, or url_field",
    "noncharacter": _UTF8,
    "not_text": f"its columns {_SOURCE} must hold text or numbers",
    "nul_character": _UTF8,
    "path_outside_folder": f"images {_SOURCE}: the file must lie in that folder",
    "several_captions": "one caption file of each kind beside an image",
    "several_images": "one image of a name, in a folder or a sample of a shard",
    "unexpected": "a bug: please report it with the log",
    "unreadable": "the file's permissions and name: it cannot be opened",
    "unknown_split": f"train, validation or test in split_column {_SOURCE}, or a name that its splits map",
}
RULES: Mapping[str, Mapping[str, str]] = {
    "download": _ROW
    | {
        "aspect": "{download.images.max_aspect}",
        "bad_response": "the server: expected one HTTP answer",
        "bad_url": "its url: expected http://host/path or https://host/path",
        "broken_image": "its bytes, which cannot be decoded",
        "connection_failed": _RETRIES,
        "credentials_in_url": "its url: expected one without user and password",
        "decoder_died": "{download.images.decode_deadline_seconds}, or this machine's memory",
        "dns_failed": _RETRIES,
        "duplicate_text": "an earlier row of the same captions, which is used",
        "duplicate_url": "an earlier row of the same url in another source, which is used",
        "empty_body": "the server: an answer without a byte, or an empty file",
        "encoded_body": "the server: a Content-Encoding that cannot be undone",
        "format_not_allowed": "its format: expected JPEG, PNG, WebP, GIF or BMP",
        "held_out_url": "a row of the same url in split test or validation, which is used",
        "hash_mismatch": f"sha256_column {_SOURCE}: other bytes came",
        "https_downgrade": "the server: a redirect from https to http",
        "not_an_image": "its bytes: expected JPEG, PNG, WebP, GIF or BMP",
        "opted_out": "the server's X-Robots-Tag for {download.fetch.user_agent}",
        "out_of_memory": "this machine's memory, {download.images.max_pixels}",
        "placeholder_suspect": "{download.max_urls_per_body}",
        "proxy_failed": "the proxy that the environment names",
        "port_not_allowed": "{download.fetch.allowed_ports}",
        "private_address": "{download.fetch.allowed_private_hosts}",
        "scheme_not_allowed": "its url: expected http or https",
        "short_body": _RETRIES,
        "timeout": "{download.fetch.deadline_seconds}",
        "tls": "the server's certificate",
        "too_large": "{download.fetch.max_bytes}",
        "too_many_pixels": "{download.images.max_pixels}",
        "too_many_redirects": "{download.fetch.max_redirects}",
        "too_small": "{download.images.min_side}",
        "truncated": "its bytes, which end too early",
    },
    "recaption": {
        "control_characters": "its text: invisible control characters",
        "empty": "its text: empty, or no caption to take",
        "prompt_leak": "{recaption.gates.min_leaked_words}, or marks of a chat",
        "refusal": "its text: the writer speaks of itself or of a missing image",
        "repeated": "{recaption.gates.max_repeats}, {recaption.gates.max_repeated_share}",
        "same_text": "{recaption.gates.max_images_per_text}",
        "too_long": "{recaption.gates.max_characters}",
        "truncated": "{recaption.gates.whole_sentences}, and max_new_tokens of its captioner",
        "wrong_language": "{recaption.gates.min_script_share}, and language of its captioner or source",
    },
    "audit": {
        "leaked": "{audit.drop_leaked}",
        "near_caption": "{audit.curation.near_captions}",
        "near_image": "{audit.curation.near_images}",
        "no_similarity": "{audit.curation.similarity}",
        "similarity": "{audit.curation.similarity}",
    },
}


class Rows:
    """Counts the rows of one stage.

    Attributes:
        rows_in: Rows that came in.
        rows_out: Rows that go on.
        rejected: Number of rejected rows by reason.
        firsts: First rejected row by reason, for messages; not part of metrics.
    """

    def __init__(self) -> None:
        self.rows_in = 0
        self.rows_out = 0
        self.rejected: Counter[str] = Counter()
        self.firsts: dict[str, str] = {}

    def accept(self, count: int = 1) -> None:
        """Count rows that came in and go on."""
        self.rows_in += count
        self.rows_out += count

    def reject(self, reason: str, count: int = 1, first: str = "") -> None:
        """Count rows that came in and are rejected; `first` describes the first such row or value."""
        self.rows_in += count
        self.rejected[reason] += count
        if first:
            self.firsts.setdefault(reason, first)

    def add(self, tree: dict[str, Any], firsts: Mapping[str, str] | None = None) -> None:
        """Add the figures of another counter, as `figures` returned them, and its first rows."""
        self.firsts = {**(firsts or {}), **self.firsts}
        self.rows_in += tree["rows_in"]
        self.rows_out += tree["rows_out"]
        self.rejected.update(tree["rejected"])

    def figures(self) -> dict[str, Any]:
        """Return rows_in, rows_out and rejected by reason, for metrics."""
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "rejected": dict(sorted(self.rejected.items())),
        }

    def exceeds(self, max_reject_share: float) -> bool:
        """Return True if no row is left, or more than this share of the rows were rejected."""
        return self.rows_out == 0 or sum(self.rejected.values()) > max_reject_share * self.rows_in

    def check(
        self,
        max_reject_share: float,
        section: str,
        params: Params,
        layout: Layout,
        *,
        given: int | None = None,
        stage: str = "",
    ) -> None:
        """Check the balance and the limit.

        Args:
            max_reject_share: Share of the rows that came in, 0..1.
            section: Params section of the limit, for the message.
            params: Params of the run; the message names the values that decide.
            layout: Layout of the project; all reasons go to a file in the stage's work folder.
            given: Number of input rows, if it is known independently of this counter.
            stage: Name of the stage, if it differs from the section.

        Raises:
            DataError: the figures do not balance, no row is left, or too many were rejected.
        """
        rejected = sum(self.rejected.values())
        if self.rows_in != self.rows_out + rejected or (given is not None and given != self.rows_in):
            raise DataError(
                f"{section}: {given if given is not None else self.rows_in} rows came in, "
                f"{self.rows_out} went out and {rejected} were rejected; expected a balance: "
                "please report this bug"
            )
        if not self.exceeds(max_reject_share):
            return
        counts = dict(self.rejected.most_common())
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        account = explained(section, counts, self.firsts, params, layout, stage or section) if counts else ""
        if self.rows_out == 0:
            raise DataError(
                f"{section}: none of {self.rows_in} rows is left ({reasons}); expected at least one{account}"
            )
        raise DataError(
            f"{section}: {rejected} of {self.rows_in} rows rejected ({reasons}); "
            f"{section}.max_reject_share allows {max_reject_share:g}: "
            f"fix the input or raise the limit{account}"
        )


def rule(section: str, reason: str, params: Params) -> str:
    """Return in words what decides a reason, with the values of its params."""
    text = RULES.get(section, {}).get("format_not_allowed" if FORMAT.fullmatch(reason) else reason)
    if text is None and section == "audit":
        text = "{audit.curation.heads}"
    if text is None:
        text = "the server's answer" if STATUS.fullmatch(reason) else UNKNOWN
    return NAMED.sub(lambda match: f"{match[1]} {_value(params, match[1])}", text)


def explained(
    section: str,
    counts: Mapping[str, int],
    firsts: Mapping[str, str],
    params: Params,
    layout: Layout,
    stage: str,
) -> str:
    """Write all reasons of rejected rows to a file, and return two lines for a message.

    Args:
        section: Params section of the rules.
        counts: Rows by reason, the most frequent first.
        firsts: First row of a reason, if known.
        params: Params of the run.
        layout: Layout of the project.
        stage: Stage whose work folder gets the file.
    """
    path = layout.work(stage) / REJECTED
    entries = [
        {
            "reason": reason,
            "count": count,
            "decided_by": rule(section, reason, params),
            "first": without_credentials(firsts[reason]) if reason in firsts else None,
        }
        for reason, count in counts.items()
    ]
    write_json(path, {"section": section, "rejected": entries})
    shown = [
        f"{entry['reason']}: "
        + (f"first {entry['first']}, " if entry["first"] else "")
        + f"decided by {entry['decided_by']}"
        for entry in entries[:IN_MESSAGE]
    ]
    return f"\n{'; '.join(shown)}\nevery reason with its first row: {path}"


def _value(params: Params, name: str) -> str:
    value = reduce(getattr, name.split("."), params)
    return str(value.model_dump() if hasattr(value, "model_dump") else value)
