"""Memory for feature maps: places never overlap, come back when nothing uses them, and change nothing but that."""

import gc
import os
import subprocess
import sys
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unsmear.ops import convolve, memory
from unsmear.ops.memory import SMALLEST, Region, empty

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no region")

SIZE = 2**16
LARGE = 1, SMALLEST // 16, 2, 2  # float32, as large as what lies in the region


def address(tensor):
    return tensor.untyped_storage().data_ptr()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, SIZE // 3), st.integers(0, 8)), max_size=60))
def test_places_do_not_overlap_and_all_come_back(steps):
    region, live = Region(SIZE), {}
    for number, (size, forget) in enumerate(steps):
        if (place := region.take(size)) is not None:
            assert len(place) == size
            place[:] = number % 256
            live[number] = place
        live.pop(forget, None)
        del place
        assert all((place == number % 256).all() for number, place in live.items())
    live.clear()
    assert region.take(SIZE // 65 // 64 * 65 * 64) is not None  # whole steps: all of it lies together again


def test_the_end_of_the_first_hole_that_is_large_enough_is_taken():
    region = Region(SIZE)
    first, second, third = (region.take(10_000) for _ in range(3))
    where = [place.ctypes.data for place in (first, second, third)]
    assert where == sorted(where)
    del second
    small, large = region.take(5_000), region.take(12_000)
    assert where[1] < small.ctypes.data <= where[2] - 5_000
    assert where[2] - small.ctypes.data == -(-5_000 // memory._STEP) * memory._STEP
    assert large.ctypes.data > where[2]
    assert region.take(SIZE) is None


def test_a_tensor_gives_its_place_back_with_its_last_view():
    like = torch.ones(())
    with torch.inference_mode():
        first = empty(like, *LARGE)
        where, view = address(first), first.permute(0, 3, 1, 2)
        del first
        second = empty(like, *LARGE)
        assert address(second) != where
        del view
        third = empty(like, *LARGE)
        assert address(third) == where


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_are_as_those_of_pytorch(dtype):
    like = torch.ones((), dtype=dtype)
    with torch.inference_mode():
        ours = empty(like, *LARGE)
        assert (ours.shape, ours.dtype) == (LARGE, dtype)
        assert ours.is_contiguous()
        assert ours.is_inference()
        ours.fill_(3)
        assert (ours == 3).all()


def test_what_may_need_gradients_is_left_to_pytorch():
    with torch.inference_mode():
        here = empty(torch.ones(()), *LARGE)
    with torch.no_grad():
        there = empty(torch.ones(()), *LARGE)
    assert not there.is_inference()
    assert address(there) != address(here)


@pytest.mark.parametrize("overcommit", ["0\n", "1\n", "2\n", None])
def test_no_region_where_untouched_memory_counts(overcommit, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_OVERCOMMIT", tmp_path / "overcommit_memory")
    if overcommit is not None:
        (tmp_path / "overcommit_memory").write_text(overcommit)
    memory._region.cache_clear()
    with torch.inference_mode():
        here = empty(torch.ones(()), *LARGE)
    assert (memory._region(os.getpid()) is None) == (overcommit not in ("0\n", "1\n"))
    assert here.shape == LARGE
    memory._region.cache_clear()


def test_no_region_where_the_process_is_limited():
    code = (
        "import resource, torch; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
        "from unsmear.ops import memory\n"
        f"with torch.inference_mode(): assert memory.empty(torch.ones(()), *{LARGE}).shape == {LARGE}\n"
        "import os; assert memory._region(os.getpid()) is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_operators_give_the_same_there():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 32, 96, 128), torch.randn(32, 32, 3, 3)
    with torch.no_grad():
        expected = convolve(x, weight)
    with torch.inference_mode():
        for _ in range(3):
            np.testing.assert_array_equal(convolve(x, weight).numpy(), expected.numpy())


def test_threads_take_and_return_at_once():
    region, wrong = Region(2**22), []

    def work(number):
        for _ in range(300):
            place = region.take(50_000 + 1000 * number)
            place[:] = number
            if not (place == number).all():
                wrong.append(number)

    threads = [Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not wrong
    assert region.take(4_000_000) is not None
