"""Between the loop and the disk: order, bounds, and errors that surface."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import Collected, run_into, whole_plan
from toy_encoders import MeanColour, paint

from latentkit.prediction.background import BATCHES_IN_FLIGHT
from latentkit.prediction.encoding import StoreSink
from latentkit.prediction.results import Encoded, Failure
from latentkit.sources import FolderSource
from latentkit.sources.source import Fingerprint


def result(number: int) -> Encoded:
    key = f"k{number}"
    return Encoded("mean", [number], [key], {"mean": np.zeros((1, 3))}, [{}], [Fingerprint(key)])


class DiskFullAt(Collected):
    """Raises on the nth batch, and on none after it."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.nth = nth
        self.writes = 0

    def write(self, *batches: Encoded) -> int:
        for batch in batches:
            self.writes += 1
            if self.writes == self.nth:
                raise OSError(28, "No space left on device")
            super().write(batch)
        return 0


class Gated(Collected):
    """Writes only once the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def write(self, *batches: Encoded) -> int:
        assert self.gate.wait(30)
        return super().write(*batches)


def test_results_and_failures_reach_the_sink_in_their_order() -> None:
    order: list[str] = []

    class Ordered(Collected):
        def write(self, *batches: Encoded) -> int:
            order.extend(key for batch in batches for key in batch.keys)
            return 0

        def fail(self, failure: Failure) -> None:
            order.append(failure.key)

    with StoreSink(Ordered()) as thread:
        for number in range(30):
            thread.put(Failure(number, f"k{number}", "decode", "bad", ("mean",), None))
            thread.put(result(100 + number))
    assert order == [key for number in range(30) for key in (f"k{number}", f"k{100 + number}")]


def test_an_error_of_the_sink_surfaces_at_the_next_put_and_again_at_the_end() -> None:
    sink = DiskFullAt(2)
    puts: list[int] = []

    def loop() -> None:
        with StoreSink(sink) as thread:
            for number in range(1000):
                thread.put(result(number))
                puts.append(number)
                time.sleep(0.001)

    with pytest.raises(OSError, match="No space left"):
        loop()
    assert len(puts) < 1000
    assert [part.keys for part in sink.encoded] == [["k0"]]  # nothing is written after a failed write


def test_an_error_of_the_last_write_surfaces_at_flush() -> None:
    flushed: list[bool] = []

    def loop() -> None:
        with StoreSink(DiskFullAt(1)) as thread:
            thread.put(result(0))
            thread.flush()
            flushed.append(True)

    with pytest.raises(OSError, match="No space left"):
        loop()
    assert not flushed


def test_an_error_of_the_last_write_surfaces_at_the_end_also_without_flush() -> None:
    with pytest.raises(OSError, match="No space left"), StoreSink(DiskFullAt(1)) as thread:
        thread.put(result(0))


def test_a_full_queue_makes_the_loop_wait() -> None:
    sink = Gated()
    with StoreSink(sink) as thread:
        put: list[int] = []

        def loop() -> None:
            for number in range(3 * BATCHES_IN_FLIGHT):
                thread.put(result(number))
                put.append(number)

        looping = threading.Thread(target=loop)
        looping.start()
        looping.join(0.5)
        assert looping.is_alive()
        assert BATCHES_IN_FLIGHT < len(put) <= 2 * BATCHES_IN_FLIGHT  # the first are in the sink's hands
        sink.gate.set()
        looping.join(30)
        assert not looping.is_alive()
    assert sink.keys("mean") == [f"k{number}" for number in range(3 * BATCHES_IN_FLIGHT)]


def test_flush_waits_until_all_is_written() -> None:
    class Slow(Collected):
        def write(self, *batches: Encoded) -> int:
            time.sleep(0.05)
            return super().write(*batches)

    sink = Slow()
    with StoreSink(sink) as thread:
        for number in range(5):
            thread.put(result(number))
        thread.flush()
        assert sink.keys("mean") == [f"k{number}" for number in range(5)]


def test_what_was_put_before_an_error_of_the_loop_is_written() -> None:
    sink = Collected()

    def loop() -> None:
        with StoreSink(sink) as thread:
            for number in range(5):
                thread.put(result(number))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert sink.keys("mean") == [f"k{number}" for number in range(5)]


@pytest.mark.parametrize("nth", [1, 3, 6])
def test_a_full_disk_ends_the_run(tmp_path: Path, nth: int) -> None:
    source = FolderSource(root=str(paint(tmp_path / "in", 12)))
    encoders = [MeanColour(batch_size=2)]
    sink = DiskFullAt(nth)
    with pytest.raises(OSError, match="No space left"):
        run_into(sink, source, encoders, whole_plan(source, encoders, tmp_path))
    assert sink.keys("mean") == [f"p{index:03d}" for index in range(2 * (nth - 1))]
