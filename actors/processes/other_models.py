"""Other models as a model.py asks for them: by the same street as any caller's, and by the same
control plane as an operator's.

Owns nothing but Triton's wording of what such a call may meet. It is the BlsPort of a real server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from actors.control.control_plane import ControlPlane
from actors.street.calls import Calls
from actors.street.local_calls import open_call
from protocol.inference import InferRequest
from protocol.status import ServerError, internal, not_found
from repo.backends.base import Outcome


class OtherModels:
    """A BlsPort (`actors/processes/ports.py`)."""

    def __init__(self, *, calls: Calls, control_plane: ControlPlane) -> None:
        self._calls = calls
        self._control_plane = control_plane

    async def infer(
        self, request: InferRequest, *, decoupled: bool
    ) -> AsyncGenerator[tuple[Outcome | None, bool], None]:
        """Every response and whether it is the last; closing the generator cancels the call.

        Raises ServerError when the other model does not accept the request.
        """
        name = request.model_name
        try:
            serving = self._calls.index.value.find(name, request.model_version)
        except ServerError as error:
            raise internal(
                f"Failed for execute the inference request. Model '{name}' is not ready."
            ) from error
        if serving.decoupled and not decoupled:
            raise internal(
                f"Model {name} is using the decoupled. The current BLS request call doesn't "
                "support models using the decoupled transaction policy. Please use "
                "'decoupled=True' argument to the 'exec' or 'async_exec' calls for decoupled "
                "models.'"
            )
        async with open_call(self._calls, request, by_program=False) as call:
            outcome: Outcome | None
            while not call.finished:
                try:
                    outcome = await call.next()
                except ServerError as error:
                    outcome = error
                yield outcome, call.finished

    async def load(self, model_name: str, config_json: str, files: Mapping[str, bytes]) -> None:
        """Load or reload, with the repository's configuration unless another is given.

        Raises ServerError; so do the others below.
        """
        parameters: dict[str, str | bytes] = {**files}
        if config_json:
            parameters["config"] = config_json
        await self._control_plane.load_model("", model_name, parameters, by_model=True)

    async def unload(self, model_name: str, *, unload_dependents: bool) -> None:
        """Take a model out of service."""
        await self._control_plane.unload_model("", model_name, unload_dependents=unload_dependents)

    async def is_ready(self, model_name: str, version: str) -> bool:
        """Whether the model can infer; one that the server has never heard of is an error."""
        if self._calls.index.value.entry_of(model_name) is None:
            raise not_found(f"Request for unknown model: '{model_name}' is not found")
        return await self._control_plane.is_model_ready(model_name, version)
