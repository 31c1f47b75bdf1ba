"""Which test proves what FAULTS.md promises about hostile inputs of the data stages: rows 25 to 101."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.conftest import ROOT

FETCHING = "download/test_fetching.py"
HOSTS = "download/test_hostile_hosts.py"
PICTURES = "download/test_pictures.py"
STAGE = "download/test_stage.py"
TABLES = "sources/test_table_rows.py"
TEXTS = "sources/test_text_tables.py"
SHARDS = "sources/test_shard_rows.py"
TAR = "storage/test_tar_index.py"
OWN = "test_hostile_shards.py"

HOSTILE_ROWS = f"{STAGE}::test_every_hostile_row_is_rejected_by_its_reason_and_no_other"
ASKED_FOR = f"{FETCHING}::test_what_must_not_be_asked_for_is_not"
HOPS = f"{FETCHING}::test_every_hop_of_a_redirect_is_checked"
BOUNDS = f"{FETCHING}::test_a_server_can_take_no_more_than_the_deadline_and_the_bytes"
PLAIN = f"{FETCHING}::test_what_is_no_plain_answer_is_refused"
AGAIN = f"{FETCHING}::test_what_may_pass_is_tried_again"
WHY = f"{PICTURES}::test_what_is_not_taken_says_why"
BOMBS = f"{PICTURES}::test_bombs_cost_no_memory_at_the_limits_of_the_default_preset"
MODES = f"{PICTURES}::test_modes_become_what_a_viewer_shows"
TSV = f"{TABLES}::test_tsv_loses_no_row_whatever_the_captions_hold"
NO_TABLE = f"{TABLES}::test_a_table_that_is_none_stops_with_what_to_do"
DAMAGED = f"{OWN}::test_no_damaged_shard_is_read"
VOUCHED = f"{OWN}::test_what_a_manifest_vouches_for_is_looked_at_too"

PROVED_BY = {
    # urls and HTTP
    25: [ASKED_FOR, HOSTILE_ROWS],
    26: [ASKED_FOR],
    27: [HOPS],
    28: [HOPS],
    29: [ASKED_FOR, f"{FETCHING}::test_no_spelling_of_loopback_reaches_it",
         f"{FETCHING}::test_public_unicast_addresses_only"],
    30: [f"{HOSTS}::test_a_name_that_changes_its_mind_is_connected_to_where_it_was_checked",
         f"{HOSTS}::test_a_name_with_any_private_address_is_refused"],
    31: [f"{FETCHING}::test_redirects_are_followed_so_far_and_no_further"],
    32: [ASKED_FOR, HOPS, HOSTILE_ROWS, f"{FETCHING}::test_a_password_is_never_kept"],
    33: [ASKED_FOR],
    34: [ASKED_FOR],
    35: [ASKED_FOR, f"{FETCHING}::test_international_names_and_escapes_are_fine"],
    36: [f"{HOSTS}::test_a_redirect_never_leads_from_https_to_http"],
    37: [f"{HOSTS}::test_a_certificate_must_be_one"],
    38: [BOUNDS, HOSTILE_ROWS],
    39: [BOUNDS],
    40: [BOUNDS, HOSTILE_ROWS],
    41: [PLAIN, HOSTILE_ROWS],
    42: [AGAIN, HOSTILE_ROWS],
    43: [HOSTILE_ROWS],
    44: [PLAIN],
    45: [AGAIN],
    46: [f"{HOSTS}::test_a_server_says_when_to_come_back",
         f"{FETCHING}::test_the_deadline_is_for_all_attempts_and_waits_together"],
    47: [PLAIN],
    48: [HOSTILE_ROWS],
    49: [f"{STAGE}::test_a_body_that_many_urls_answer_with_is_no_picture"],
    50: [PLAIN],
    51: [f"{STAGE}::test_no_image_and_no_network_are_told_apart",
         f"{STAGE}::test_a_network_that_dies_in_the_middle_stops_the_stage_and_costs_no_row",
         f"{HOSTS}::test_a_name_server_that_never_answers_is_no_slow_image"],
    52: [f"{HOSTS}::test_a_host_with_nearly_all_rows_keeps_no_other_waiting",
         f"{HOSTS}::test_names_whose_server_is_silent_keep_no_other_waiting"],
    53: ["download/test_sources.py::test_bytes_that_are_not_the_pinned_ones_are_rejected_and_told",
         "download/test_sources.py::test_an_earlier_ledger_is_a_url_list_that_reports_every_changed_body"],
    # image bytes
    54: [WHY],
    55: [f"{PICTURES}::test_every_cut_of_an_image_is_refused_whatever_a_library_set"],
    56: [f"{PICTURES}::test_what_follows_an_image_is_cut_off"],
    57: [BOMBS],
    58: [BOMBS],
    59: [WHY],
    60: [f"{PICTURES}::test_moving_images_give_their_first_frame", HOSTILE_ROWS],
    61: [MODES, f"{PICTURES}::test_inks_of_adobe_in_other_coordinates_have_their_colour"],
    62: [MODES],
    63: [MODES],
    64: [f"{PICTURES}::test_exif_orientation_is_applied_and_all_metadata_dropped"],
    65: [WHY],
    66: [f"{PICTURES}::test_metadata_that_is_huge_or_broken_spoils_no_pixels", BOMBS],
    67: [f"{PICTURES}::test_a_bomb_in_text_chunks_is_bounded"],
    68: [f"{PICTURES}::test_what_follows_an_image_is_cut_off"],
    69: [f"{STAGE}::test_an_image_that_crashes_or_hangs_the_decoder_costs_its_own_row"],
    70: [f"{PICTURES}::test_exif_orientation_is_applied_and_all_metadata_dropped"],
    # tables and captions
    71: [TSV],
    72: [TSV],
    73: [TSV, f"{TABLES}::test_csv_stops_at_a_quote_that_would_swallow_rows"],
    74: [TSV],
    75: [TSV],
    76: [TSV],
    77: [TSV],
    78: [TSV],
    79: [TSV],
    80: [HOSTILE_ROWS],
    81: [HOSTILE_ROWS],  # the policy: the first row stays
    82: [f"{STAGE}::test_equal_keys_stop_before_anything_is_fetched"],
    83: [TSV, HOSTILE_ROWS],
    84: [TSV, "recaption/test_hostile.py::test_hostile_captions_of_a_column",
         "embed_captions/test_stage.py::test_hostile_captions_are_embedded_like_any"],
    85: [TSV, "storage/test_side_tables.py::test_text_key_is_that_of_the_composed_text",
         f"{TEXTS}::test_whatever_people_write_a_row_is_a_row"],
    86: [TSV, "sources/test_annotations.py::test_what_cannot_be_written_in_utf_8_is_rejected_and_replaced",
         "recaption/test_hostile.py::test_half_a_character_in_a_shard_is_told"],
    87: [TSV],
    88: [TSV, "recaption/test_hostile.py::test_what_a_source_says_gets_into_no_prompt"],
    89: [NO_TABLE],
    90: [f"{TEXTS}::test_a_header_line_where_none_was_expected_is_told", NO_TABLE],
    91: [NO_TABLE],
    92: [NO_TABLE, f"{TEXTS}::test_a_packed_list_is_whole_or_stops"],
    # shards: those of others as a source, our own before recaption and audit
    93: [f"{TAR}::test_every_cut_is_seen", DAMAGED],
    94: [f"{TAR}::test_no_flipped_bit_of_a_header_is_believed", DAMAGED,
         "test_bulk_mode.py::test_every_reader_refuses_a_flipped_bit_before_it_is_used"],
    95: [f"{TAR}::test_what_is_no_tar_is_refused", DAMAGED],
    96: [f"{TAR}::test_names_that_lead_out_are_refused",
         f"{TAR}::test_other_things_than_files_are_refused"],
    97: [f"{SHARDS}::test_a_key_stands_once_and_in_one_place"],
    98: [f"{SHARDS}::test_a_sample_without_an_image_or_a_caption_is_a_rejected_row", VOUCHED],
    99: [f"{SHARDS}::test_members_of_other_kinds_are_never_decoded"],
    100: [DAMAGED, "storage/test_manifest.py::test_a_missing_and_an_additional_file_are_refused"],
    101: [f"{OWN}::test_two_shards_of_the_same_images_stop_the_audit"],
}  # fmt: skip
PROMISES = {
    "P9": ["download/test_fetch_bounds.py::test_no_server_costs_more_than_the_deadline_and_the_bytes"],
    "P10": [f"{STAGE}::test_bytes_follow_the_input_and_never_the_network"],
    "P21": PROVED_BY[53],
}


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_has_a_test_and_the_test_is_there() -> None:
    assert list(PROVED_BY) == list(range(25, 102))
    named = {name for names in [*PROVED_BY.values(), *PROMISES.values()] for name in names}
    there = {file: functions_of(ROOT / "tests" / file) for file in {name.split("::")[0] for name in named}}
    assert [name for name in sorted(named) if name.split("::")[1] not in there[name.split("::")[0]]] == []
