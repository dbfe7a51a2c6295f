"""Loads, unloads and asks after other models."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from probes import ProbeModel

CONFIG = {
    "backend": "python",
    "input": [{"name": "WORD", "data_type": "TYPE_STRING", "dims": [1]}],
    "output": [{"name": "ANSWER", "data_type": "TYPE_STRING", "dims": [1]}],
    "instance_group": [{"kind": "KIND_CPU"}],
    "parameters": {"from": {"string_value": "the caller"}},
}
FILE = b"""
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        tensor = pb_utils.Tensor("ANSWER", np.array([b"from a file"], np.object_))
        return [pb_utils.InferenceResponse([tensor]) for _ in requests]
"""


def ask(model):
    word = pb_utils.Tensor("WORD", np.array([b"works"], np.object_))
    response = pb_utils.InferenceRequest(
        model_name=model, requested_output_names=["ANSWER"], inputs=[word]
    ).exec()
    if response.has_error():
        return response.error().message()
    return bytes(response.output_tensors()[0].as_numpy()[0]).decode()


class TritonPythonModel(ProbeModel):
    def cycle(self):
        name = "returns_from_initialize"
        found = [pb_utils.load_model(name), pb_utils.is_model_ready(name), ask(name)]
        return [*found, pb_utils.unload_model(name)]

    def is_itself_ready(self):
        return pb_utils.is_model_ready("controls")

    def is_ready_by_version(self):
        return pb_utils.is_model_ready("controls", "1")

    def is_ready_by_keywords(self):
        return pb_utils.is_model_ready(model_name="controls", model_version="1")

    def is_other_version_ready(self):
        return pb_utils.is_model_ready("controls", "7")

    def is_unknown_ready(self):
        return pb_utils.is_model_ready("nowhere")

    def is_nothing_ready(self):
        return pb_utils.is_model_ready("")

    def is_none_ready(self):
        return pb_utils.is_model_ready(None)

    def is_version_word_ready(self):
        return pb_utils.is_model_ready("controls", "one")

    def load_unknown(self):
        return pb_utils.load_model("nowhere")

    def load_nothing(self):
        return pb_utils.load_model("")

    def load_none(self):
        return pb_utils.load_model(None)

    def load_outside(self):
        return pb_utils.load_model("../outside")

    def load_broken(self):
        return pb_utils.load_model("raises_in_initialize")

    def load_with_bad_json(self):
        return pb_utils.load_model("another_name", config="{")

    def load_with_config_number(self):
        return pb_utils.load_model("another_name", config=3)

    def load_with_files(self):
        pb_utils.load_model("made_up", config=json.dumps(CONFIG), files={"file:1/model.py": FILE})
        found = ask("made_up")
        pb_utils.unload_model("made_up")
        return found

    def load_with_files_alone(self):
        return pb_utils.load_model("made_up", files={"file:1/model.py": FILE})

    def load_with_file_text(self):
        return pb_utils.load_model("made_up", files={"file:1/model.py": "text"})

    def load_with_files_outside(self):
        files = {"file:../../x.py": FILE}
        return pb_utils.load_model("made_up", config=json.dumps(CONFIG), files=files)

    def unload_unknown(self):
        return pb_utils.unload_model("nowhere")

    def unload_with_dependents(self):
        return pb_utils.unload_model("nowhere", unload_dependents=True)

    def unload_none(self):
        return pb_utils.unload_model(None)
