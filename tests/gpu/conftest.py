"""Tests that need a GPU: skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest

from repo.devices.cuda import CudaDevice, open_cuda_device
from repo.devices.port import DeviceError


@pytest.fixture(scope="session")
def device() -> CudaDevice:
    """The first GPU."""
    try:
        return open_cuda_device(0)
    except DeviceError as error:
        pytest.skip(f"no CUDA device: {error}")
