"""Which tests hold the protocol's errors, its cases and what its clients rely on: three tables.

The numbers are those of the catalogue of errors and of the Given/When/Then list that Troupe's
protocol was written from. A test is named as `file::function`, a file of `tests/conformance` by
its stem alone and any other from `tests` on; `[E7]` after it means that the cases of that function
are a table in the file, and that the table has rows of that number.
"""

from __future__ import annotations

from typing import Final

HTTP: Final = "test_http_errors::test_a_mistake_in_an_inference"
BINARY: Final = "test_http_errors::test_a_mistake_in_binary_data"
REGISTER: Final = "test_http_errors::test_a_mistake_in_registering"
GRPC: Final = "test_grpc_errors::test_inference_mistakes"
CONTROL: Final = "test_grpc_errors::test_control_mistakes"
CASES_OF_HTTP: Final = "test_http_cases::test_case"
SPANS: Final = "test_grpc_tensors::test_spans_outside_of_a_region"
REGIONS: Final = "test_grpc_tensors::test_regions_are_registered_listed_and_forgotten"
STREAM: Final = "actors/test_grpc_infer_stream::test"
LOADED: Final = "perf_analyzer/test_end_to_end::test_troupe_is_loaded_and_counts_the_same"


def _both(number: int) -> tuple[str, ...]:
    """A row of the table of each protocol."""
    return (f"{HTTP}[E{number}]", f"{GRPC}[E{number}]")


ERRORS: Final[dict[int, tuple[str, ...]]] = {
    1: (*_both(1), f"{CONTROL}[E1]"),
    2: _both(2),
    3: ("test_http_errors::test_e3_and_e4_a_model_that_was_unloaded", f"{GRPC}[E3]"),
    4: ("test_http_errors::test_e3_and_e4_a_model_that_was_unloaded", f"{GRPC}[E4]"),
    5: (
        "test_rare_errors::test_e5_a_probe_that_was_half_sent_is_told_of_the_end",
        "test_grpc_streams::test_a_stopping_server_says_so_on_open_streams",
        "actors/test_http_control::test_while_the_server_exits",
    ),
    6: _both(6),
    7: (
        f"{HTTP}[E7]",
        "protocol/test_v2_json_text::test_a_malformed_document_is_told_with_reason_and_offset",
    ),
    8: (f"{HTTP}[E8]",),
    9: (f"{CASES_OF_HTTP}_17_one_source_of_data",),
    10: (f"{HTTP}[E10]", f"{CASES_OF_HTTP}_16_shapes_that_overflow"),
    11: (f"{BINARY}[E11]",),
    12: (f"{BINARY}[E12]",),
    13: (f"{CASES_OF_HTTP}_09_the_length_of_the_json",),
    14: (f"{HTTP}[E14]",),
    15: (
        f"{CASES_OF_HTTP}_14_elements_of_the_wrong_kind",
        "test_http_errors::test_e15_an_output_that_json_cannot_spell",
    ),
    16: (
        f"{CASES_OF_HTTP}_15_elements_are_counted",
        "protocol/test_v2_json_tensors::test_the_number_of_elements_must_fit_the_shape",
    ),
    17: (f"{CASES_OF_HTTP}_15_elements_are_counted",),
    18: (*_both(18), f"{CASES_OF_HTTP}_31_regions"),
    19: (f"{CASES_OF_HTTP}_14_elements_of_the_wrong_kind",),
    20: (
        *_both(20),
        "test_rare_errors::test_e20_how_many_inputs_a_model_with_optional_ones_takes",
    ),
    21: _both(21),
    22: _both(22),
    23: _both(23),
    24: _both(24),
    25: _both(25),
    26: _both(26),
    27: (f"{GRPC}[E27]",),  # JSON has no negative shapes: E10
    28: _both(28),
    29: _both(29),
    30: (f"{BINARY}[E30]", f"{GRPC}[E30]"),
    31: (f"{BINARY}[E31]", f"{GRPC}[E31]"),
    32: (f"{BINARY}[E32]", f"{GRPC}[E32]"),
    33: (f"{CASES_OF_HTTP}_11_an_empty_body_is_a_raw_one",),
    34: (f"{CASES_OF_HTTP}_10_the_whole_body_is_the_tensor",),
    35: (
        "test_sequences_clients::test_mistakes_are_named",
        "clients/check_streams::mistakes_with_sequences",
    ),
    36: (f"{CASES_OF_HTTP}_31_regions", REGIONS),
    37: (f"{REGISTER}[E37]", f"{CONTROL}[E37]"),
    38: (f"{REGISTER}[E38]", f"{CONTROL}[E38]"),
    39: (f"{REGISTER}[E39]", f"{CONTROL}[E39]"),
    40: (f"{REGISTER}[E40]", REGIONS),
    41: (*_both(41), f"{CONTROL}[E41]"),
    42: (f"{CASES_OF_HTTP}_31_regions", SPANS),
    43: (f"{CASES_OF_HTTP}_31_regions", SPANS),
    44: (f"{CASES_OF_HTTP}_31_regions", SPANS),
    45: (
        f"{CASES_OF_HTTP}_31_regions",
        "test_grpc_tensors::test_an_output_that_does_not_fit_its_span",
    ),
    46: (
        f"{CASES_OF_HTTP}_31_regions_are_off_by_default",
        "actors/test_http_control::test_mistakes_in_registering",
        f"{CONTROL}[E46]",
        "test_grpc_errors::test_operators_who_allowed_nothing_are_not_asked",
    ),
    47: (f"{CASES_OF_HTTP}_22_parameters_have_kinds", f"{GRPC}[E47]"),
    48: (
        f"{CASES_OF_HTTP}_23_headers_become_parameters",
        "test_rare_errors::test_e48_a_header_of_a_reserved_name_is_not_forwarded",
    ),
    49: _both(49),
    50: (f"{HTTP}[E50]", f"{CASES_OF_HTTP}_20_large_inputs"),
    51: (f"{CASES_OF_HTTP}_20_large_inputs",),
    52: (f"{CASES_OF_HTTP}_20_large_inputs",),
    53: (f"{CASES_OF_HTTP}_16_shapes_that_overflow",),
    54: (f"{CASES_OF_HTTP}_16_shapes_that_overflow",),
    55: (
        "test_security::test_case_47_what_is_restricted_and_what_is_not",
        "test_grpc_control::test_restricted_calls_need_their_metadata",
    ),
    56: (
        "test_http_errors::test_e56_what_no_route_serves",
        "test_grpc_control::test_what_no_service_has_is_unimplemented",
    ),
    57: (
        "test_http_errors::test_e57_and_e58_a_queue_that_is_full",
        "test_scheduling_wire::test_a_queue_takes_exactly_as_many_as_it_may",
    ),
    58: (
        "test_http_errors::test_e57_and_e58_a_queue_that_is_full",
        "test_scheduling_wire::test_a_timeout_rejects_and_may_only_be_shortened",
    ),
    59: (
        "test_http_errors::test_e59_loading",
        "test_rare_errors::test_e59_a_load_that_fails_says_why",
        f"{CONTROL}[E59]",
        "test_grpc_errors::test_operators_who_allowed_nothing_are_not_asked",
    ),
    60: (*_both(60), f"{CONTROL}[E60]"),
}

# Texts that the catalogue has besides the numbered ones.
MORE_ERRORS: Final[dict[str, tuple[str, ...]]] = {
    "expected a single response, got N": (
        "test_rare_errors::test_a_model_that_is_not_decoupled_gives_one_response",
    ),
    "classification output tensor too large": (
        "test_rare_errors::test_classes_are_taken_of_a_million_elements_at_most",
    ),
    "Keyword 'parameters' for nested schema also given as input tensor name": (
        "test_rare_errors::test_a_generation_cannot_tell_parameters_from_an_input_of_that_name",
    ),
    "The region named 'R' is registered as system shared memory, not CUDA shared memory": (
        "test_rare_errors::test_e41_a_region_of_the_other_kind_is_named",
        "actors/test_cuda_regions::test_a_handle_is_opened_listed_and_closed",
    ),
    "failed to register CUDA shared memory region: 'R', GPUs not supported": (
        f"{CONTROL}[no GPU]",
        "clients/check_control::cuda_regions_without_a_device",
    ),
    "failed to register shared memory region: invalid args": (
        "actors/test_cuda_regions::test_what_cannot_be_opened_is_refused",
        "actors/test_cuda_regions::test_clients_share_device_memory_over_both_protocols",
    ),
    "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t": (
        "actors/test_http_control::test_mistakes_in_registering",
        "protocol/test_v2_json_control::test_bad_regions",
    ),
    "request size of C bytes with input 'I' …": (
        "test_http_errors::test_generate_takes_no_more_than_its_limit",
    ),
    "nothing to be decompressed": ("test_http_errors::test_a_compressed_body_that_is_empty",),
    "Unsupported compression type": (f"{CASES_OF_HTTP}_19_compression_both_ways",),
    "Chunked request body exceeds maximum": (f"{CASES_OF_HTTP}_21_many_chunks",),
    "generate expects model to produce exactly 1 response": (
        "test_http_streams::test_case_27_not_exactly_one_response",
    ),
}

# What the catalogue has and Troupe can never say, and why.
NEVER_SAID: Final[dict[str, str]] = {
    "E5: Server not ready": (
        "over a socket: the models begin to stop only after the last connection has closed; "
        "until then whoever has one open is served (in memory it is said, and tested)"
    ),
    "Failed to unregister the following system shared memory regions": (
        "a region is forgotten whatever becomes of its mapping: what a device says is for the log"
    ),
    "case 47 by way of Vertex AI and SageMaker": "Troupe has neither frontend, and says so",
}

CASES: Final[dict[int, tuple[str, ...]]] = {
    1: (f"{CASES_OF_HTTP}_01_the_server_has_a_name",),
    2: (f"{CASES_OF_HTTP}_02_ready_has_no_body",),
    3: (f"{CASES_OF_HTTP}_03_a_model_that_failed",),
    4: (f"{CASES_OF_HTTP}_04_wrong_methods_and_routes",),
    5: (f"{CASES_OF_HTTP}_05_all_outputs_in_json",),
    6: (f"{CASES_OF_HTTP}_06_all_outputs_in_binary",),
    7: (f"{CASES_OF_HTTP}_07_listed_outputs_say_for_themselves",),
    8: (f"{CASES_OF_HTTP}_08_binary_inputs_come_in_the_order_of_the_json",),
    9: (f"{CASES_OF_HTTP}_09_the_length_of_the_json",),
    10: (f"{CASES_OF_HTTP}_10_the_whole_body_is_the_tensor",),
    11: (f"{CASES_OF_HTTP}_11_an_empty_body_is_a_raw_one",),
    12: (
        f"{CASES_OF_HTTP}_12_strings_of_any_kind",
        "test_grpc_tensors::test_what_goes_in_comes_out",
    ),
    13: (f"{CASES_OF_HTTP}_13_bytes_that_are_no_text",),
    14: (f"{CASES_OF_HTTP}_14_elements_of_the_wrong_kind",),
    15: (f"{CASES_OF_HTTP}_15_elements_are_counted",),
    16: (f"{CASES_OF_HTTP}_16_shapes_that_overflow",),
    17: (f"{CASES_OF_HTTP}_17_one_source_of_data",),
    18: (f"{CASES_OF_HTTP}_18_what_the_model_does_not_take",),
    19: (f"{CASES_OF_HTTP}_19_compression_both_ways",),
    20: (f"{CASES_OF_HTTP}_20_large_inputs",),
    21: (f"{CASES_OF_HTTP}_21_many_chunks",),
    22: (f"{CASES_OF_HTTP}_22_parameters_have_kinds",),
    23: (f"{CASES_OF_HTTP}_23_headers_become_parameters",),
    24: (f"{CASES_OF_HTTP}_24_classes",),
    25: ("test_http_streams::test_case_25_a_flat_object_becomes_tensors_and_parameters",),
    26: (
        "test_http_streams::test_case_26_responses_are_events",
        "test_http_streams::test_case_26_events_come_as_they_are_made",
        "test_http_streams::test_case_26_the_repeat_backend",
    ),
    27: ("test_http_streams::test_case_27_not_exactly_one_response",),
    28: ("test_http_streams::test_case_28_an_input_twice",),
    29: (
        "test_http_metrics::test_case_29_a_load_report",
        "test_http_streams::test_case_29_no_report_without_its_metrics",
    ),
    30: (
        "test_http_streams::test_case_30_a_client_that_goes_is_noticed_by_the_model",
        "test_http_streams::test_case_30_a_client_that_goes_frees_its_place_in_the_queue",
    ),
    31: (
        f"{CASES_OF_HTTP}_31_regions",
        f"{CASES_OF_HTTP}_31_regions_are_off_by_default",
    ),
    32: (
        f"{CASES_OF_HTTP}_32_a_region_in_use_goes_with_its_last_request",
        "test_grpc_tensors::test_a_region_in_use_stays_until_its_request_is_answered",
    ),
    33: (
        f"{CASES_OF_HTTP}_33_a_model_that_its_client_brings",
        "test_security::test_cve_2023_31036_files_of_a_load_stay_inside",
        "test_security::test_cve_2026_24147_and_2025_23316_names_are_only_names",
    ),
    34: (f"{CASES_OF_HTTP}_34_the_index_and_those_who_are_composed",),
    35: (f"{CASES_OF_HTTP}_35_what_is_counted",),
    36: (GRPC, "test_grpc_tensors::test_typed_contents_are_the_same_tensors"),
    37: ("test_grpc_tensors::test_raw_tensors_are_those_that_are_not_shared",),
    38: ("test_grpc_tensors::test_tensors_may_lie_in_shared_memory",),
    39: (GRPC, "test_grpc_errors::test_what_looks_like_a_mistake_and_is_none"),
    40: (
        "test_grpc_streams::test_many_requests_to_several_models_on_one_stream",
        f"{STREAM}_responses_come_in_the_order_of_their_requests",
        f"{STREAM}_decoupled_responses_overtake_those_in_order",
    ),
    41: (
        "test_grpc_streams::test_a_repeat_model_streams_its_elements",
        "clients/check_streams::an_empty_final_response_if_asked_for",
    ),
    42: ("test_grpc_streams::test_a_mistake_in_the_middle_is_answered_in_the_middle",),
    43: (
        "test_grpc_streams::test_errors_can_be_made_to_end_the_stream",
        f"{STREAM}_on_request_the_first_failure_ends_the_call_and_drops_the_rest",
    ),
    44: (
        "test_grpc_streams::test_a_cancelled_stream_reaches_the_model",
        "actors/test_grpc_infer_stream::test_a_cancelled_call_cancels_its_requests_and_no_others",
    ),
    45: ("test_grpc_streams::test_a_deadline_ends_the_call_and_the_work",),
    46: ("test_grpc_tensors::test_a_large_tensor_comes_back_whole",),
    47: (
        "test_security::test_case_47_what_is_restricted_and_what_is_not",
        "test_grpc_control::test_restricted_calls_need_their_metadata",
    ),
    48: (
        "test_http_metrics::test_case_48_a_fresh_server_counts_nothing_yet",
        "test_http_metrics::test_case_48_summaries_and_the_cache",
    ),
    49: ("test_http_metrics::test_case_49_a_model_s_own_buckets",),
    50: ("test_tracing::test_50_two_in_six_are_traced_and_then_no_more",),
    51: (
        "actors/test_http_control::test_51_a_model_s_settings_fall_back_to_the_global_ones",
        "actors/test_http_control::test_mistakes_in_trace_settings",
    ),
    52: ("test_tracing::test_52_a_client_s_trace_goes_through_the_server_to_the_collector",),
    53: (
        "actors/test_http_control::test_log_settings",
        "test_grpc_control::test_log_settings_change_what_is_logged",
        "test_security::test_cve_2024_0087_and_0100_no_request_names_a_file_to_write",
    ),
    54: (
        f"{CASES_OF_HTTP}_54_no_request_writes_a_line_of_the_log",
        "test_grpc_errors::test_a_forged_line_in_a_name_stays_one_line_of_the_log",
    ),
    55: (
        f"{CASES_OF_HTTP}_55_a_model_that_is_not_there",
        "clients/check_control::models_are_ready_or_not",
    ),
    56: (
        "test_http_streams::test_case_56_the_end_waits_for_work_and_for_nobody_who_is_idle",
        "test_http_streams::test_case_56_the_end_does_not_wait_for_ever",
    ),
    57: ("test_running::test_case_57_what_cannot_be_obeyed_ends_with_1",),
    58: (LOADED,),  # and by the C++ program: docs/conformance.md
    59: (
        "test_http_clients::test_case_59_every_datatype_in_every_form",
        "test_http_clients::test_case_59_every_datatype_by_the_asyncio_client",
        "test_http_clients::test_case_59_every_datatype_in_shared_memory",
        "test_grpc_tensors::test_what_goes_in_comes_out",
        "test_grpc_tensors::test_tensors_may_lie_in_shared_memory",
    ),
    60: (
        "test_security::test_cve_2026_47629_any_body_on_any_route_is_answered",
        "test_security::test_garbage_of_any_kind_is_answered_or_dropped",
    ),  # and for ten minutes by fuzz/fuzz_rest_server.py: fuzz/README.md
}
