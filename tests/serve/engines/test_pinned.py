"""Memory that GPUs copy at full speed: who has it, when it is used again, where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from standins.cuda_runtime import CudaRuntime

from clsspec_serve.engines import device, pinned
from clsspec_serve.engines.device import Device
from clsspec_serve.engines.pinned import LIMIT, SMALLEST, Pinned

LARGE = (8, 4, 64, 64)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaRuntime]:
    cuda = CudaRuntime([(9, 0), (9, 0)])
    monkeypatch.setattr(device, "cuda_runtime", lambda: cuda)
    yield cuda
    assert (cuda.misuses, cuda.pinned) == ([], {})


def test_memory_is_used_again_and_not_before_all_of_it_is_free(cuda: CudaRuntime) -> None:
    pool = Pinned(Device(0))
    first = pool.array(LARGE, np.uint8)
    assert (first.shape, first.dtype, first.flags.c_contiguous) == (LARGE, np.uint8, True)
    assert first.flags.writeable
    first[...] = 7
    part = first[3, 1:, ::2]
    del first
    second = pool.array(LARGE, np.uint8)
    second[...] = 8
    assert (part == 7).all()
    assert cuda.log == ["pin 131072", "pin 131072"]
    del part
    pool.array((8, 64, 64), np.float32)[...] = 9  # of as many bytes
    assert (second == 8).all()
    assert cuda.log == ["pin 131072", "pin 131072"]


def test_an_array_outlives_the_pool(cuda: CudaRuntime) -> None:
    pool = Pinned(Device(0))
    array = pool.array(LARGE, np.uint8)
    array[...] = 5
    del pool
    assert (array == 5).all()
    del array
    assert cuda.log == ["pin 131072", "unpin 131072"]


def test_small_arrays_are_of_ordinary_memory(cuda: CudaRuntime) -> None:
    pool = Pinned(Device(0))
    for shape in ((), (0, 4), (SMALLEST - 1,)):
        assert pool.array(shape, np.uint8).shape == shape
    assert cuda.log == []
    assert pool.array((SMALLEST,), np.uint8).size == SMALLEST
    assert cuda.log == [f"pin {SMALLEST}"]


def test_beyond_the_limit_arrays_are_of_ordinary_memory(
    cuda: CudaRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LIMIT % SMALLEST == 0
    monkeypatch.setattr(pinned, "LIMIT", 4 * SMALLEST)
    pool = Pinned(Device(0))
    held = [pool.array((SMALLEST,), np.uint8) for _ in range(6)]
    for value, array in enumerate(held):
        array[...] = value
    assert [int(array[-1]) for array in held] == [0, 1, 2, 3, 4, 5]
    assert len(cuda.pinned) == 4
    del held, array
    # What waits makes room for another size.
    large = pool.array((3 * SMALLEST,), np.uint8)
    large[...] = 1
    assert {memory.size for memory in cuda.pinned.values()} == {4 * SMALLEST}
    assert cuda.log.count(f"unpin {SMALLEST}") == 4


def test_where_the_system_has_none_arrays_are_of_ordinary_memory(cuda: CudaRuntime) -> None:
    cuda.fails["cudaHostAlloc"] = cuda.cudaError_t.cudaErrorMemoryAllocation
    pool = Pinned(Device(0))
    pool.array(LARGE, np.uint8)[...] = 3
    assert cuda.pinned == {}
    cuda.fails.clear()
    pool.array(LARGE, np.uint8)[...] = 3
    assert len(cuda.pinned) == 1


def test_all_gpus_of_a_process_share_it(cuda: CudaRuntime) -> None:
    one, other = pinned.pinned(Device(0)), pinned.pinned(Device(1))
    assert one is other


def test_threads_have_arrays_of_their_own(cuda: CudaRuntime) -> None:
    pool = Pinned(Device(0))

    def own(value: int) -> bool:
        arrays = [pool.array((SMALLEST + value,), np.uint8) for _ in range(3)]
        for array in arrays:
            array[...] = value
        return all((array == value).all() for array in arrays)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(own, [1, 2, 3, 4] * 50))
    assert len(cuda.pinned) <= 12
