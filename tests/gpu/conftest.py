"""The device of the tests marked `gpu`: `pytest tests/gpu` on a GPU, `pytest tests/gpu --device cpu` rehearses them."""

from collections.abc import Iterator

import pytest
import torch

from tests.conftest import JOB
from videomae.core.distributed import World, init_distributed


@pytest.fixture(scope="package")
def group(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """One process group of one rank for all tests here: DeepSpeed remembers the first that it meets."""
    device = torch.device(request.config.getoption("--device"), 0)
    with pytest.MonkeyPatch.context() as patch:
        for name in JOB:
            patch.setenv(name, "")  # to be taken away again
        init_distributed(World(rank=0, size=1, local_rank=0, device=device))
        yield device
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def leaves_no_job() -> None:
    """The tests here share a job, which `group` ends."""


@pytest.fixture
def device(group: torch.device, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device, with full float32 products: a reference on the CPU has no TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return group


@pytest.fixture
def world(device: torch.device) -> World:
    return World(rank=0, size=1, local_rank=0, device=device)
