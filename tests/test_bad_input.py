"""The account of bad input: what the user sees of each kind, and the test that proves it.

`PROVED_BY` has the hostile inputs of the data stages by their numbers in docs/faults.md, 25 to 101; `KINDS`
those that users met since.
"""

from __future__ import annotations

import ast
import re
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
DRAFTS = "sources/test_drafts.py"
JSON_LINES = "sources/test_text_tables.py"
CELLS = "sources/test_values.py"
PATHS = "sources/test_input_paths.py"
DEPLOYMENT = "flows/test_deployment.py"

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
    86: [TSV, "sources/test_annotations.py::test_what_cannot_be_written_in_utf_8_is_rejected_and_replaced"],
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
KINDS = {
    # a row never ends a stage
    "a host that no name can be, in a list or a redirect: the row is bad_url": [ASKED_FOR, HOPS],
    "any text as a url: a url or a reason, never an error":
        [f"{FETCHING}::test_whatever_a_list_holds_is_a_url_or_refused"],
    "an error nobody foresaw while a row is taken: unexpected, told once, counted":
        [f"{STAGE}::test_what_nobody_foresaw_costs_its_own_row_and_is_told_once",
         f"{DRAFTS}::test_what_nobody_foresaw_rejects_its_row_and_is_logged_once"],
    "a file of one row that cannot be opened: unreadable":
        [f"{DRAFTS}::test_a_file_that_cannot_be_opened_is_unreadable"],
    "a field missing, null or nested in JSON lines: the row is rejected by reason, no sha256 means none":
        [f"{JSON_LINES}::test_a_field_that_is_missing_or_of_another_kind_rejects_its_row_alone"],
    "an annotation that is no object, an image without id: the row alone":
        ["sources/test_annotations.py::test_what_is_no_object_or_has_no_id_costs_itself"],
    "a timestamp out of range, a map, a record as caption: not_text":
        [f"{CELLS}::test_every_type_of_parquet_is_text_or_rejected"],
    "a cell that cannot be read, in any column: its row alone":
        [f"{CELLS}::test_a_cell_that_cannot_be_read_costs_its_own_row"],
    "a list of captions written as text: a list":
        [f"{CELLS}::test_a_list_of_strings_that_is_written_as_text_is_a_list"],
    # nothing is lost or changed in silence
    "dotted names in a shard: all samples, or rejected one by one":
        [f"{SHARDS}::test_dots_in_names_lose_no_sample",
         f"{SHARDS}::test_what_lies_beside_a_sample_and_is_not_read_is_logged"],
    "a link below inputs that DVC does not see through: stop, by stage and by check":
        [f"{PATHS}::test_what_dvc_does_not_see_is_refused_and_nothing_else",
         f"{PATHS}::test_a_stage_refuses_what_dvc_does_not_see"],
    "names of pictures with and without their folder: understood, or told where they were looked for":
        ["sources/test_table_rows.py::test_names_are_below_the_folder_of_images_or_paths_from_inputs",
         "cli/test_check_sources.py::test_the_path_that_was_looked_for_is_told_where_no_picture_is_there"],
    "a valid url with escapes, signed or not: asked for byte for byte":
        [f"{FETCHING}::test_what_is_valid_is_asked_for_byte_for_byte_and_the_rest_percent_encoded"],
    "raw bytes in a Location: percent-encoded as they came":
        [f"{FETCHING}::test_where_a_server_sends_us_is_asked_for_byte_for_byte"],
    "captions that a model wrote for a data set: judged by the gates as recaption's own":
        ["recaption/test_given_captions.py::"
         "test_of_a_thousand_and_four_captions_a_model_keeps_one_and_people_keep_all"],
    "names that are equal once cleaned, or too long: taken, each with a key of its own":
        ["sources/test_sample_files.py::test_names_that_look_alike_have_keys_of_their_own"],
    "two images or two captions of one name: rejected, nothing is chosen":
        ["sources/test_sample_files.py::test_nothing_is_chosen_where_two_files_could_be_meant"],
    # what is whole is taken
    "odd Content-Encoding, 203, long or many headers, equal lengths: taken":
        [f"{FETCHING}::test_what_is_whole_is_taken"],
    "a gzip bomb, a cut gzip, br, lengths that differ: too_large, short_body, encoded_body, bad_response":
        [f"{FETCHING}::test_what_is_not_whole_or_cannot_be_undone_is_refused"],
    "an empty shard among many: no rows, logged": [f"{SHARDS}::test_an_empty_shard_among_many_has_no_rows"],
    "a shard or table that is compressed, HTML or a Git LFS pointer: stop, with what it is":
        [f"{TAR}::test_what_is_no_tar_is_refused", NO_TABLE,
         "sources/test_files.py::test_a_compressed_table_is_not_passed_over"],
    "AVIF, HEIC, JPEG XL, SVG and other pictures that are not taken: format_avif and so on":
        [WHY, "ml/vision/test_pictures.py::test_formats_are_known_by_their_first_bytes"],
    # a release and its models
    "a picture that is turned, transparent or of 16 bits: the same upright pixels on white everywhere":
        ["ml/vision/test_pictures.py::test_every_way_gives_the_same_upright_picture_on_white"],
    "a special token in a caption: text, and what follows it counts":
        ["ml/text/test_plain_text.py::test_no_special_token_comes_out_of_a_text_and_what_follows_counts"],
    "one text, one path or picture: one row; what is none: an error that says what is taken":
        ["ml/test_release.py::test_what_is_no_picture_is_told",
         "ml/test_release.py::test_what_is_no_text_is_told"],
    "a release that is not whole, a device that is not there: told by name":
        ["ml/test_release.py::test_a_release_that_is_not_whole_is_told",
         "ml/test_release.py::test_the_folder_and_the_device_are_named"],
    "a LoRA adapter alone: told, with the command that merges it":
        ["base_models/test_adapters.py::test_an_adapter_in_a_folder_is_told_and_merged_by_the_command"],
    "weights of other formats, quantised, or in part: told":
        ["running/test_model_weights.py::test_what_is_no_whole_model_is_told"],
    # around the data
    "a proxy that is dead or wants a login: stop, no row is rejected for it":
        [f"{HOSTS}::test_a_proxy_that_fails_is_to_blame_and_no_row"],
    "a private address through a proxy: private_address":
        [f"{HOSTS}::test_a_proxy_is_asked_byte_for_byte_and_no_name_looked_up"],
    "keys and pictures over plain http: stop before anything is sent":
        ["settings/test_environment.py::test_nothing_goes_over_plain_http_to_a_host_that_is_not_named",
         "base_models/test_hub.py::test_no_token_goes_to_a_mirror_over_plain_http"],
    "too many rejected rows: the param that decides, the first row, and a file of all reasons":
        [f"{STAGE}::test_what_decides_is_named_with_the_first_row_and_the_file_of_all"],
    "missing, unknown and wrong keys of params.yaml: all named at once":
        ["settings/test_params.py::test_every_missing_and_every_wrong_key_is_named_at_once"],
    "columns that nobody writes, paths and models that are missing: all told at once by check":
        ["cli/test_check.py::test_all_that_would_stop_a_later_stage_is_told_at_once",
         "cli/test_check_columns.py::test_all_that_is_read_and_not_written_is_told_at_once",
         "cli/test_check_paths.py::test_all_that_is_missing_or_unseen_is_told_at_once"],
    "a path with ~ or a variable that is not set: expanded, or stop":
        ["settings/test_environment.py::test_home_and_variables_in_paths_are_expanded_as_a_shell_does",
         "settings/test_environment.py::test_a_path_that_cannot_be_expanded_makes_no_folder"],
    "a folder without git: check says so":
        ["cli/test_check.py::test_a_folder_without_git_is_told_before_dvc_stops"],
    "git that is slow, broken or missing: the release is published without its part":
        ["register/test_publish.py::test_a_release_is_published_whatever_git_does"],
    # Prefect
    "an active schedule: a run starts; a refused run: two lines":
        [f"{DEPLOYMENT}::test_an_active_schedule_starts_a_run_and_its_refusal_takes_two_lines"],
    "a redeploy: what people did in the UI stays": [f"{DEPLOYMENT}::test_a_redeploy_keeps_what_people_did"],
    "a killed worker: started again, the server stays":
        [f"{DEPLOYMENT}::test_a_run_completes_and_a_stopped_one_leaves_nothing_alive",
         "flows/test_ui.py::test_a_worker_that_ends_at_once_again_and_again_stops_it_all"],
    "other people's runs on a shared server: not ours to end":
        [f"{DEPLOYMENT}::test_the_automation_sees_only_runs_of_this_flow"],
    "a request without the server's secret: 401":
        [f"{DEPLOYMENT}::test_a_request_without_the_secret_is_refused"],
    "a server that is dead, hangs, is none, or refuses the secret: one line within seconds":
        ["flows/test_connection.py::test_every_command_ends_with_one_line_where_nobody_listens",
         "flows/test_connection.py::test_a_server_that_accepts_and_never_answers",
         "flows/test_connection.py::test_an_answer_that_is_not_a_prefect_server_s",
         "flows/test_connection.py::test_a_wrong_secret_is_refused_by_the_real_server"],
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
    proofs = [*PROVED_BY.values(), *KINDS.values(), *PROMISES.values()]
    named = {name for names in proofs for name in names}
    there = {file: functions_of(ROOT / "tests" / file) for file in {name.split("::")[0] for name in named}}
    assert [name for name in sorted(named) if name.split("::")[1] not in there[name.split("::")[0]]] == []


def test_docs_count_them() -> None:
    said = re.search(
        r"(\d+) hostile inputs and (\d+) kinds that users met", (ROOT / "docs/faults.md").read_text("utf-8")
    )
    assert said
    assert [int(number) for number in said.groups()] == [len(PROVED_BY), len(KINDS)]
