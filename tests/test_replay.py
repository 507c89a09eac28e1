"""When passes are recorded. What a recording is takes a GPU: `benchmarks/gpu.py` checks that there."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from unsmear.replay import Repeated, record_graph


class Recorder:
    """Stands in for CUDA graphs: a replay doubles, too, and is counted."""

    def __init__(self, fault=None):
        self.recorded, self.replays, self.calls, self.fault = [], 0, 0, fault

    def function(self, x):
        self.calls += 1
        return 2 * x

    def record(self, function, x):
        if self.fault is not None:
            raise self.fault
        self.recorded.append(x.shape)

        def replay(x):
            assert x.shape == self.recorded[-1]
            self.replays += 1
            return 2 * x

        return replay


def test_a_size_is_recorded_when_it_comes_again_and_again():
    recorder = Recorder()
    run = Repeated(recorder.function, recorder.record)
    for n in range(6):
        x = torch.full((1, 3, 4, 5), float(n))
        assert torch.equal(run(x), 2 * x)
    assert (recorder.calls, recorder.recorded, recorder.replays) == (2, [(1, 3, 4, 5)], 4)


def test_only_the_latest_size_is_kept():
    recorder = Recorder()
    run = Repeated(recorder.function, recorder.record)
    for size in (4, 4, 4, 6, 4, 4, 4):
        run(torch.ones(size))
    assert recorder.recorded == [(4,), (4,)]
    assert recorder.replays == 2


@pytest.mark.parametrize("fault", [RuntimeError("not while recording"), torch.OutOfMemoryError("no memory")])
def test_what_cannot_be_recorded_is_computed(fault):
    recorder = Recorder(fault)
    run = Repeated(recorder.function, recorder.record)
    for _ in range(5):
        assert torch.equal(run(torch.ones(3)), torch.full((3,), 2.0))
    assert (recorder.calls, recorder.replays) == (5, 0)


def test_threads_take_turns():
    recorder = Recorder()
    run = Repeated(recorder.function, recorder.record)
    inputs = [torch.full((8,), float(n)) for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for x, y in zip(inputs, pool.map(run, inputs), strict=True):
            assert torch.equal(y, 2 * x)
    assert (recorder.calls, recorder.replays) == (2, 38)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_does_the_same():
    weight = torch.randn(8, 8, device="cuda")
    x = torch.randn(8, 8, device="cuda")
    replay = record_graph(lambda x: x @ weight, x)
    for x in torch.randn(3, 8, 8, device="cuda"):
        torch.testing.assert_close(replay(x), x @ weight)
