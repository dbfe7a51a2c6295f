"""What Triton's clients rely on without saying so, and the test that asks for it with a real one.

`test_protocol_cases` checks that the tests are there; how they are named is said in
`protocol_cases`. `clients/…` are checks of the drivers, which every release of tritonclient runs.
"""

from __future__ import annotations

from typing import Final

TRAPS: Final[dict[str, tuple[str, ...]]] = {
    "raw_output_contents has one entry per output, for shared memory too": (
        "test_grpc_tensors::test_tensors_may_lie_in_shared_memory",
        "clients/check_shared_memory::one_output_in_shared_memory_and_one_not",
    ),
    "raw_output_contents has one entry per output, for empty ones too": (
        "test_client_traps::test_an_output_without_elements_has_its_place",
    ),
    "raw_input_contents skips inputs in shared memory": (
        "clients/check_shared_memory::only_one_tensor_in_shared_memory",
    ),
    "triton_final_response stands on each streamed response": (
        "clients/check_streams::answers_come_in_order",
        "clients/check_streams::as_many_responses_as_the_model_sends",
    ),
    "an empty final response comes to those who ask for it": (
        "clients/check_streams::an_empty_final_response_if_asked_for",
        "clients/check_streams::only_a_final_response",
    ),
    "triton_enable_empty_final_response is accepted on unary calls": (
        "test_client_traps::test_unary_calls_may_speak_of_an_empty_final_response",
    ),
    "errors of a stream are in band, with the id of their request": (
        "clients/check_streams::an_error_leaves_the_stream_open",
        "test_grpc_streams::test_a_mistake_in_the_middle_is_answered_in_the_middle",
    ),
    "malformed JSON and wrong JSON types are 500": (
        "test_client_traps::test_malformed_json_and_a_wrong_json_type_are_errors_of_status_500",
    ),
    "Inference-Header-Content-Length counts JSON before compression, both ways": (
        "test_http_clients::test_case_59_every_datatype_in_every_form",
        "test_http_clients::test_case_59_every_datatype_by_the_asyncio_client",
    ),
    "no such header where no binary bytes follow": (
        "test_client_traps::test_an_output_without_elements_has_its_place",
    ),
    "binary_data_output holds for outputs that are not listed": (
        "clients/check_infer::all_outputs_when_none_are_listed",
    ),
    "a listed output says itself whether it is binary": (
        "clients/check_infer::one_output_binary_and_one_not",
    ),
    "names come percent-encoded over HTTP": (
        "test_client_traps::test_a_name_that_the_client_quotes_is_found",
    ),
    "an unknown model is not ready, which is no error": (
        "clients/check_control::models_are_ready_or_not",
    ),
    "priority and timeout come as unsigned or signed numbers": (
        "clients/check_infer::priority_and_timeout_are_taken",
    ),
    "every member of the statistics is always there": (
        "clients/check_control::statistics_count_requests",
    ),
    "the extensions name statistics": ("clients/check_control::server_metadata",),
    "trace settings are strings, and null clears one": ("clients/check_control::trace_settings",),
    "unload_dependents is always sent": ("clients/check_control::unload_with_dependents",),
    "files of a load are base64 over HTTP and bytes over gRPC": (
        "clients/check_control::load_with_files_of_the_client",
    ),
    "bytes that are no text survive in binary": ("clients/check_data::strings_of_any_bytes",),
    "FP16 and BF16 have no JSON form": (
        "clients/check_data::sixteen_bit_floats_are_refused_as_json",
    ),
    "messages are as large as the client likes": (
        "test_grpc_tensors::test_a_large_tensor_comes_back_whole",
    ),
    "one channel carries many calls at a time": (
        "test_client_traps::test_one_channel_carries_hundreds_of_calls",
    ),
    "a deadline and a cancelled call are the client's own statuses": (
        "clients/check_infer::a_deadline_of_the_client",
        "clients/check_infer::a_call_is_cancelled",
    ),
    "a cancelled stream ends with CANCELLED and harms nobody": (
        "clients/check_streams::a_stream_is_cancelled",
    ),
    "decoupled models are refused on unary calls": (
        "clients/check_infer::decoupled_models_need_a_stream",
    ),
    "statuses over gRPC have no details in their trailers": (
        "test_grpc_errors::test_inference_mistakes",
    ),
    "classes are strings with labels": ("clients/check_data::best_classes_with_their_labels",),
    "sequences are named by numbers or by text": (
        "clients/check_streams::two_numbered_sequences_keep_their_own_state",
        "clients/check_streams::two_named_sequences_keep_their_own_state",
    ),
    "Expect: 100-continue is honoured": ("test_http_streams::test_curl_s_expectation_is_met",),
    "a response names its request only if that had an id": (
        "clients/check_infer::version_and_request_id",
        "clients/check_infer::all_outputs_when_none_are_listed",
    ),
}
