"""Memory for feature maps: places never overlap, come back when nothing uses them, and change nothing but that."""

import gc
import sys
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unsmear.ops import convolve
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
        if (memory := region.take(size)) is not None:
            assert len(memory) == size
            memory[:] = number % 256
            live[number] = memory
        live.pop(forget, None)
        del memory
        assert all((memory == number % 256).all() for number, memory in live.items())
    live.clear()
    assert region.take(SIZE // 65 // 64 * 65 * 64) is not None  # whole steps: all of it lies together again


def test_the_first_place_that_fits_is_taken():
    region = Region(SIZE)
    first, second, third = (region.take(10_000) for _ in range(3))
    where = [memory.ctypes.data for memory in (first, second, third)]
    assert where == sorted(where)
    del second
    small, large = region.take(5_000), region.take(12_000)
    assert small.ctypes.data == where[1]
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
            memory = region.take(50_000 + 1000 * number)
            memory[:] = number
            if not (memory == number).all():
                wrong.append(number)

    threads = [Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert not wrong
    assert region.take(4_000_000) is not None
