"""`pb_utils.ModelConfig`: what `auto_complete_config` fills in, with Triton's rules and texts."""

from __future__ import annotations

import json
from typing import Any

JsonObject = dict[str, Any]


class ModelConfig:
    """A model configuration in its JSON form, which a model may complete but not contradict."""

    def __init__(self, model_config: str) -> None:
        self._config: JsonObject = json.loads(model_config)

    def as_dict(self) -> JsonObject:
        """The configuration; to be read, not changed."""
        return self._config

    def as_json(self) -> str:
        return json.dumps(self._config)

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Raises ValueError when the configuration asks for more."""
        configured = self._config.get("max_batch_size", 0)
        if configured > max_batch_size:
            raise ValueError(
                f"configuration specified max_batch_size {configured}, but in "
                f"auto-complete-config function for model '{self._name}' specified "
                f"max_batch_size {max_batch_size}"
            )
        self._config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """Use the dynamic batcher. Raises ValueError when another scheduler is configured."""
        for scheduler in ("sequence_batching", "ensemble_scheduling"):
            if scheduler in self._config:
                raise ValueError(
                    f"Configuration specified scheduling_choice as '{scheduler}', but "
                    f"auto-complete-config function for model '{self._name}' tries to set "
                    "scheduling_choice as 'dynamic_batching'"
                )
        self._config.setdefault("dynamic_batching", {})

    def add_input(self, input: JsonObject) -> None:  # noqa: A002  # a model may pass it by name
        """Add or complete an input: `name`, `data_type`, `dims` and perhaps `optional`.

        Raises ValueError for other properties, missing ones, and contradictions.
        """
        self._check_properties(
            "input", input, "'name', 'data_type', 'dims' and 'optional'", {"optional"}
        )
        self._merge("input", input)

    def add_output(self, output: JsonObject) -> None:
        """Add or complete an output: `name`, `data_type` and `dims`. Raises ValueError."""
        self._check_properties("output", output, "'name', 'data_type' and 'dims'", set())
        self._merge("output", output)

    def set_model_transaction_policy(self, transaction_policy_dict: JsonObject) -> None:
        """Set `{"decoupled": bool}`. Raises ValueError when it is set otherwise already."""
        for key in transaction_policy_dict:
            if key != "decoupled":
                raise ValueError(
                    "model transaction property in auto-complete-config function for model "
                    f"'{self._name}' contains property other than 'decoupled'."
                )
        policy = self._config.setdefault("model_transaction_policy", {})
        if "decoupled" not in transaction_policy_dict:
            return
        decoupled = transaction_policy_dict["decoupled"]
        if policy.get("decoupled", decoupled) != decoupled:
            raise ValueError(
                "trying to change decoupled property in auto-complete-config for model "
                f"'{self._name}', which is already set to '{policy['decoupled']}'."
            )
        policy["decoupled"] = decoupled

    @property
    def _name(self) -> str:
        return str(self._config.get("name", ""))

    def _check_properties(
        self, kind: str, tensor: JsonObject, listing: str, optional: set[str]
    ) -> None:
        required = ("name", "data_type", "dims")
        place = f"in auto-complete-config function for model '{self._name}'"
        subject = f"{kind} '{tensor['name']}'" if "name" in tensor else kind
        for key in tensor:
            if key not in required and key not in optional:
                raise ValueError(f"{subject} {place} contains property other than {listing}.")
        for key in required:
            if key not in tensor:
                raise ValueError(f"{subject} {place} is missing '{key}' property.")

    def _merge(self, kind: str, tensor: JsonObject) -> None:
        configured: list[JsonObject] = self._config.setdefault(kind, [])
        for current in configured:
            if current.get("name") != tensor["name"]:
                continue
            data_type = current.get("data_type", "TYPE_INVALID")
            if data_type not in {"TYPE_INVALID", tensor["data_type"]}:
                raise ValueError(
                    f"unable to load model '{self._name}', configuration expects datatype "
                    f"{data_type} for {kind} '{tensor['name']}', model provides "
                    f"{tensor['data_type']}"
                )
            for key in ("dims", "optional"):
                # `optional: false` may stand in a configuration; absent dims are an empty list.
                stated = current.get(key) if key != "dims" else current.get(key) or None
                if stated is not None and key in tensor and _differs(key, stated, tensor[key]):
                    raise ValueError(
                        f"model '{self._name}', tensor '{tensor['name']}': the model expects "
                        f"{key} {tensor[key]} but the model configuration specifies {key} {stated}"
                    )
            current.update(tensor)
            return
        configured.append(tensor)


def _differs(key: str, stated: Any, wanted: Any) -> bool:
    """A configuration's JSON spells dims as numbers or, being 64 bits wide, as text."""
    if key == "dims":
        return [int(dim) for dim in stated] != [int(dim) for dim in wanted]
    return bool(stated != wanted)
