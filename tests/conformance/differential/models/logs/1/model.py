"""Writes lines into the server's log."""

import triton_python_backend_utils as pb_utils
from probes import ProbeModel, attempt


class TritonPythonModel(ProbeModel):
    def initialize(self, args):
        pb_utils.Logger.log_info("logged by initialize")

    def all_levels(self):
        return [
            pb_utils.Logger.log("logged plainly"),
            pb_utils.Logger.log("logged as a warning", pb_utils.Logger.WARNING),
            pb_utils.Logger.log("logged as an error", pb_utils.Logger.ERROR),
            pb_utils.Logger.log("logged verbosely", pb_utils.Logger.VERBOSE),
            pb_utils.Logger.log_info("logged by log_info"),
            pb_utils.Logger.log_warn("logged by log_warn"),
            pb_utils.Logger.log_error("logged by log_error"),
            pb_utils.Logger.log_verbose("logged by log_verbose"),
        ]

    def empty(self):
        return attempt(pb_utils.Logger.log, "")

    def several_lines(self):
        return attempt(pb_utils.Logger.log_info, "logged in line one\nand in line two")

    def number(self):
        return attempt(pb_utils.Logger.log, 3)

    def none(self):
        return attempt(pb_utils.Logger.log_info, None)

    def level_number(self):
        return attempt(pb_utils.Logger.log, "logged by number", 2)

    def level_unknown(self):
        return attempt(pb_utils.Logger.log, "text", 17)

    def printed(self):
        print("printed by the model", flush=True)
        return "printed"
