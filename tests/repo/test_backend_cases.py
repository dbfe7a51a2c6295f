"""Every case of repositories and backends has its tests, by their names.

The numbers are those of the Given/When/Then list that Troupe's repository and backends were written
from; here stands what each is about. Whoever renames a test renames it here. Tests of PyTorch are
skipped where it is not installed; CI installs it.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Final, NamedTuple

import pytest

TESTS: Final = Path(__file__).parent.parent
WIRE: Final = "conformance/test_repository_cases.py::"
LIVE: Final = "conformance/test_lifecycle.py::"
SIMULATED: Final = "simulation/test_lifecycle.py::"
MEMBERS: Final = "simulation/test_ensembles_loading.py::"
DISK: Final = "actors/test_disk_source.py::"
WORKER: Final = "actors/test_process_executor.py::"
CALLS: Final = "actors/test_process_executor_calls.py::"
LATE: Final = "actors/test_process_executor_late.py::"
DEATHS: Final = "actors/test_process_executor_deaths.py::"
ONNX: Final = "repo/test_onnxruntime.py::"
COMPLETE: Final = "repo/test_autocomplete.py::"
TORCH: Final = "repo/test_pytorch.py::"
NAMING: Final = "repo/test_pytorch_naming.py::"
GROUPS: Final = "repo/test_instance_groups.py::"
ROWS: Final = "repo/test_error_catalogue.py::"
STREAMS: Final = "conformance/test_grpc_streams.py::"
DIFFERENTIAL: Final = "conformance/differential/test_differential.py::"
TENSOR: Final = "repo/python_backend/test_tensor.py::"
DLPACK: Final = "repo/python_backend/test_dlpack.py::"
CLOUD: Final = "conformance/test_cloud_repositories.py::"
BROUGHT: Final = "repo/test_overrides.py::"
SEQUENCES: Final = "conformance/test_sequences_clients.py::"
ENDS: Final = "conformance/test_http_streams.py::"


class Case(NamedTuple):
    """What a case is about, and the tests that hold it."""

    about: str
    tests: tuple[str, ...]
    untested: str = ""  # which part needs what CI does not have


CASES: Final = {
    1: Case("the highest version, no configuration", (
        f"{WIRE}test_case_01_the_highest_version_is_served_without_a_configuration",
        "repo/test_versions.py::test_the_policy_selects",
    )),
    2: Case("directories that are no versions", (
        f"{WIRE}test_case_02_directories_that_are_no_versions",
        "repo/test_versions.py::test_directories_that_are_no_versions_are_named",
    )),
    3: Case("a directory of another name", (
        f"{WIRE}test_case_03_a_directory_of_another_name",
        f"{DISK}test_a_directory_and_its_configuration_have_one_name",
    )),
    4: Case("one model in two repositories", (
        f"{LIVE}test_case_4_a_duplicate_is_out_of_service_until_one_copy_goes",
        f"{SIMULATED}test_a_model_that_two_repositories_have_is_out_of_service_until_one_has_it",
    )),
    5: Case("namespaces", (
        f"{LIVE}test_case_5_ensembles_use_the_members_of_their_own_namespace",
    )),
    6: Case("a named configuration", (
        f"{DISK}test_a_named_configuration_is_preferred_where_it_is",
        "actors/test_options.py::test_mistakes_are_named_in_triton_s_words",
    )),
    7: Case("loading in mode none", (
        "actors/test_http_control.py::test_control_that_is_not_allowed",
        "conformance/test_http_errors.py::test_e59_loading",
    )),
    8: Case("everything and one model at start", (
        f"{LIVE}test_case_8_everything_is_asked_for_alone",
    )),
    9: Case("nothing asked for", (
        f"{WIRE}test_case_09_what_was_never_asked_for_is_a_name_only",
    )),
    10: Case("one broken model at start", (
        f"{LIVE}test_case_10_one_broken_model_ends_the_server_unless_told_otherwise",
    )),
    11: Case("specific versions that are missing", (
        f"{WIRE}test_case_11_versions_that_are_asked_for_and_not_there",
        "repo/test_versions.py::test_no_version_left_is_an_error",
    )),
    12: Case("one corrupt version of two", (
        f"{WIRE}test_case_12_one_version_that_fails_is_all_that_fail",
    )),
    13: Case("a reload that fails", (
        f"{WIRE}test_case_13_what_is_corrupted_leaves_what_serves",
        f"{SIMULATED}test_a_failed_load_leaves_the_old_version_and_is_tried_again",
    )),
    14: Case("more instances", (
        f"{LIVE}test_cases_14_to_17_of_python_instances",
        f"{SIMULATED}test_more_instances_join_while_requests_run",
    )),
    15: Case("fewer instances", (
        f"{LIVE}test_cases_14_to_17_of_python_instances",
        f"{SIMULATED}test_a_surplus_instance_ends_with_what_it_has",
    )),
    16: Case("another batch size", (
        f"{SIMULATED}test_a_change_of_anything_else_reloads",
    )),
    17: Case("an editor's swap file", (
        f"{LIVE}test_cases_14_to_17_of_python_instances",
        f"{SIMULATED}test_a_swap_file_beside_the_configuration_reloads",
    )),
    18: Case("a configuration that came with a load", (
        f"{WIRE}test_case_18_a_configuration_that_came_with_a_load_stays",
        "policy/test_lifecycle.py::test_a_request_s_configuration_lasts_until_files_change",
    )),
    19: Case("files that came with a load", (
        f"{WIRE}test_cases_19_and_20_files_that_came_with_a_load",
        f"{BROUGHT}test_files_make_a_directory_that_ends_with_its_last_user",
    )),
    20: Case("a file outside of its model", (
        f"{WIRE}test_cases_19_and_20_files_that_came_with_a_load",
        f"{BROUGHT}test_a_path_out_of_the_directory_is_refused_and_nothing_written",
    )),
    21: Case("names that no model has", (
        f"{WIRE}test_cases_21_and_23_names_that_no_model_has",
    )),
    22: Case("unloading under an inference", (
        f"{WIRE}test_case_22_an_unload_does_not_wait_for_an_inference",
    )),
    23: Case("unloading the unknown", (
        f"{WIRE}test_cases_21_and_23_names_that_no_model_has",
    )),
    24: Case("unloading with dependents", (
        f"{MEMBERS}test_unloading_dependents_spares_what_was_asked_for",
        "conformance/test_http_cases.py::test_case_34_the_index_and_those_who_are_composed",
    )),
    25: Case("a member that goes and comes", (
        f"{MEMBERS}test_an_ensemble_goes_and_comes_with_its_members",
    )),
    26: Case("ensembles in a circle", (
        f"{MEMBERS}test_ensembles_in_a_circle_are_refused_and_others_load",
    )),
    27: Case("retries", (
        f"{WIRE}test_case_27_a_model_that_fails_twice_and_then_loads",
        f"{SIMULATED}test_a_version_that_fails_is_tried_as_often_as_was_asked",
    )),
    28: Case("loads at once", (
        f"{SIMULATED}test_loads_of_different_models_take_as_long_as_the_slowest",
        f"{SIMULATED}test_the_same_load_asked_for_eight_times_loads_once",
    )),
    29: Case("checksums", (
        f"{DISK}test_the_checksum_agent_lets_good_files_pass",
        f"{DISK}test_the_checksum_agent_refuses",
    )),
    30: Case("object storage", (
        f"{CLOUD}test_s3_is_polled",
        f"{CLOUD}test_credentials_come_from_the_file_of_prefixes",
        "repo/cloud/test_credentials.py::test_the_longest_prefix_of_the_file_wins",
    )),
    31: Case("the catalogue of configuration errors", (
        f"{ROWS}test_row",
        f"{ROWS}test_row_about_members",
        f"{ROWS}test_row_1_nobody_has_given_a_name",
        f"{ROWS}test_row_5_a_backend_that_nobody_has",
        f"{ROWS}test_row_35_instances_are_never_none",
        f"{ROWS}test_rows_about_gpus",  # 37 and 38
        f"{DISK}test_without_a_file_somebody_has_to_know_the_configuration",  # row 53
        f"{WIRE}test_case_31_what_is_found_out_after_polling_is_said_of_the_version",
    )),
    32: Case("completing an ONNX model", (
        f"{COMPLETE}test_a_graph_that_batches_gives_everything",
        f"{COMPLETE}test_small_default_batches_need_no_batcher",
        f"{COMPLETE}test_a_graph_that_cannot_batch_keeps_its_whole_shapes",
        f"{ONNX}test_the_model_completes_its_configuration",
    )),
    33: Case("some of the outputs, some of the inputs", (
        f"{ONNX}test_a_subset_of_the_outputs_may_be_configured",
        f"{ONNX}test_a_configuration_must_fit_its_model",
    )),
    34: Case("a scalar per row", (
        f"{COMPLETE}test_a_scalar_output_of_a_batch_is_reshaped_too",
        f"{ONNX}test_an_empty_reshape_is_a_scalar_per_row",
    )),
    35: Case("names and number of instances", (
        f"{GROUPS}test_the_implicit_group_is_named_like_the_model",
        f"{GROUPS}test_onnxruntime_has_two_cpu_instances_by_default",
        f"{GROUPS}test_unnamed_groups_are_numbered",
    )),
    36: Case("a truncated string in a batch", (
        f"{ONNX}test_a_broken_string_fails_alone",
    )),
    37: Case("graph level and execution mode", (
        f"{ONNX}test_the_graph_level_chooses_optimisation",
        f"{ONNX}test_a_misspelt_parameter_fails_the_load",
    )),
    38: Case("names of TorchScript inputs", (
        f"{NAMING}test_inputs_are_bound_by_name_by_index_or_in_order",
        f"{NAMING}test_a_dictionary_is_the_only_argument",
        f"{TORCH}test_inputs_reach_their_arguments",
        f"{TORCH}test_a_dictionary_is_filled_by_name",
    )),
    39: Case("outputs of another type, and scalars", (
        f"{TORCH}test_what_cannot_be_a_response_is_refused",
    )),
    40: Case("thread counts of two models", (
        f"{NAMING}test_the_first_model_chooses_the_thread_counts",
        f"{TORCH}test_the_first_model_s_thread_count_rules",
    )),
    41: Case("modules beside model.py", (
        f"{WIRE}test_case_41_models_do_not_share_what_lies_beside_them",
        f"{WORKER}test_a_model_may_import_what_lies_beside_it",
    )),
    42: Case("what initialize is given", (
        f"{WIRE}test_cases_42_and_64_what_an_instance_is_told_and_where_it_runs",
        f"{WORKER}test_initialize_gets_strings_and_finalize_is_called_at_the_end",
    )),
    43: Case("a model that completes its configuration", (
        f"{WIRE}test_case_43_a_model_that_completes_its_configuration",
        f"{DISK}test_without_a_file_somebody_has_to_know_the_configuration",
    )),
    44: Case("a completion of None", (
        "actors/test_process_autocomplete.py::test_a_completion_may_fail",
    )),
    45: Case("a list of the wrong length", (
        f"{WORKER}test_what_execute_may_not_return_fails_the_batch_and_nothing_else",
    )),
    46: Case("errors of single requests", (
        f"{WORKER}test_one_response_may_be_an_error_with_any_code",
        f"{DIFFERENTIAL}test_troupe_says_what_triton_said",
    )),
    47: Case("outputs that nobody asked for", (
        f"{WORKER}test_outputs_nobody_asked_for_are_pruned_and_parameters_passed_on",
        f"{WORKER}test_a_model_sees_what_its_request_carries",
    )),
    48: Case("a response that comes later", (
        f"{LATE}test_a_thread_may_answer_after_execute_has_returned",
        f"{DIFFERENTIAL}test_troupe_says_what_triton_said",
    )),
    49: Case("three responses and the end", (
        f"{LATE}test_a_decoupled_model_sends_any_number_of_responses",
        f"{STREAMS}test_a_decoupled_python_model_streams_too",
        "conformance/test_ensembles_samples.py::test_a_decoupled_model_needs_a_stream",
    )),
    50: Case("a decoupled execute that returns", (
        f"{LATE}test_a_failing_decoupled_execute_fails_what_is_still_open",
    )),
    51: Case("async decoupled batches", (
        f"{LATE}test_async_decoupled_batches_overlap",
    )),
    52: Case("asking a model that is not there", (
        f"{CALLS}test_a_model_runs_other_models",
        "conformance/test_bls_models.py::test_a_model_that_is_unknown_to_the_caller_too",
    )),
    53: Case("asking a decoupled model", (
        f"{CALLS}test_decoupled_calls_are_iterators",
        "conformance/test_bls_models.py::test_a_model_asks_the_server",
    )),
    54: Case(
        "asking four at once",
        (f"{CALLS}test_calls_run_at_once_up_to_a_limit",),
        "outputs on a GPU that are preferred on the CPU: needs a GPU",
    ),
    55: Case("BF16", (
        f"{DLPACK}test_bf16_passes_bit_for_bit",
        f"{TENSOR}test_bf16_is_not_for_numpy",
    )),
    56: Case("strings of numpy", (
        f"{TENSOR}test_other_dtypes_are_not_supported",
        f"{TENSOR}test_elements_of_a_bytes_tensor_become_bytes",
    )),
    57: Case("a killed worker", (
        f"{DEATHS}test_a_death_fails_the_batch_and_the_next_request_succeeds",
        f"{DEATHS}test_nothing_is_left_behind_by_many_deaths",
        "conformance/test_leaks_and_kills.py::test_a_killed_worker_fails_nobody_but_who_was_inside",
    )),
    58: Case("is_ready", (
        f"{WIRE}test_case_58_a_model_that_says_it_is_not_ready_still_answers",
        f"{CALLS}test_a_model_says_whether_it_is_ready",
        f"{CALLS}test_a_model_that_takes_too_long_is_not_ready",
    )),
    59: Case("a request that is executed again", (
        f"{LATE}test_a_request_may_ask_to_be_executed_again",
        f"{SEQUENCES}test_an_iterative_model_streams_until_it_is_done",
    )),
    60: Case("warm-up", (
        f"{WIRE}test_case_60_samples_of_a_warm_up_run_as_batches_on_every_instance",
        "repo/test_warmup.py::test_random_data_is_valid_and_repeatable",
        "repo/test_warmup.py::test_made_up_strings_are_empty",
    )),
    61: Case("a cached decoupled model", (
        f"{ROWS}test_row",
        f"{MEMBERS}test_a_decoupled_ensemble_cannot_be_cached",
    )),
    62: Case("GPUs that are not there", (
        f"{ROWS}test_rows_about_gpus",
        "repo/devices/test_table.py::test_gpus_that_are_not_there_are_refused",
        f"{GROUPS}test_auto_takes_a_gpu_only_if_all_listed_ones_are_there",
    )),
    63: Case(
        "a file per compute capability",
        (f"{ONNX}test_a_gpu_instance_takes_the_file_of_its_compute_capability",),
        "the session on the GPU itself: needs a GPU",
    ),
    64: Case("host policies", (
        f"{WIRE}test_cases_42_and_64_what_an_instance_is_told_and_where_it_runs",
        "repo/test_host_policy.py::test_cores_are_ranges",
    )),
    65: Case("SIGTERM", (
        f"{ENDS}test_case_56_the_end_waits_for_work_and_for_nobody_who_is_idle",
        f"{ENDS}test_case_56_the_end_does_not_wait_for_ever",
    )),
    66: Case("a model that is loading", (
        f"{WIRE}test_case_66_a_model_that_is_loading_is_not_waited_for",
    )),
}  # fmt: skip


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """Every test function of a file, by its name."""
    return frozenset(
        node.name
        for node in ast.walk(ast.parse((TESTS / path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


@pytest.mark.parametrize("number", CASES)
def test_a_case_has_its_tests(number: int) -> None:
    case = CASES[number]
    assert case.tests, f"nobody tests case {number}: {case.about}"
    missing = [
        name for name in case.tests if name.split("::")[1] not in names_in(name.split("::")[0])
    ]
    assert not missing, f"case {number}, {case.about}: renamed or gone"


def test_no_case_is_left_out() -> None:
    assert list(CASES) == list(range(1, 67))


def test_what_nobody_tests_needs_a_gpu() -> None:
    untested = {number: case.untested for number, case in CASES.items() if case.untested}
    assert list(untested) == [54, 63]
    assert all(reason.endswith(": needs a GPU") for reason in untested.values())


def test_tests_over_the_wire_have_numbers_of_cases() -> None:
    """Whoever adds one there lists it here."""
    listed = {name for case in CASES.values() for name in case.tests if name.startswith(WIRE)}
    assert {WIRE + name for name in names_in(WIRE.removesuffix("::"))} == listed
