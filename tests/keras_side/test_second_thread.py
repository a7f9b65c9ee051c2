"""Work in two threads gives what work in one does, and its errors come to light."""

from __future__ import annotations

import threading

import pytest

from tflite_ptq4.keras_side.second_thread import SecondThread


def test_shared_work_is_all_done_and_in_order() -> None:
    with SecondThread() as beside:
        assert beside.share(lambda item: item * item, range(1000)) == [i * i for i in range(1000)]
        assert beside.share(lambda item: item, []) == []


def test_both_threads_share_work() -> None:
    """Each of two pieces waits until the other has begun."""
    both = threading.Barrier(2, timeout=60)

    def piece(_: int) -> int:
        both.wait()
        return threading.get_ident()

    with SecondThread() as beside:
        assert len(set(beside.share(piece, range(2)))) == 2


def test_one_thread_does_all_while_the_other_is_busy() -> None:
    released = threading.Event()
    with SecondThread() as beside:
        before = beside.start(released.wait, 60)
        found = beside.share(lambda _: threading.get_ident(), range(3))
        released.set()
        assert found == [threading.get_ident()] * 3
        assert before.result()


@pytest.mark.parametrize("bad", [0, 1, 99])
def test_an_error_in_either_thread_is_raised(bad: int) -> None:
    def piece(item: int) -> int:
        if item == bad:
            raise ValueError("bad piece")
        return item

    with SecondThread() as beside, pytest.raises(ValueError, match="bad piece"):
        beside.share(piece, range(100))


def test_after_an_error_nothing_more_is_begun() -> None:
    done, begun, go_on = [], threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go_on.wait(60)

    def fail() -> None:
        with SecondThread() as beside:
            beside.start(first)
            beside.start(done.append, 1)
            begun.wait(60)
            threading.Timer(0.05, go_on.set).start()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert done == []
