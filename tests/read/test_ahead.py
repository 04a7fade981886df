import gc
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medloop.read.ahead import ahead


def threads():
    return [t for t in threading.enumerate() if t.name == "medloop-ahead"]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 40), most=st.integers(1, 5), taken=st.integers(0, 50))
def test_order_is_kept_and_the_thread_ends(n, most, taken):
    items = ahead(lambda: iter(range(n)), most)
    got = [item for item, _ in zip(items, range(taken), strict=False)]
    assert got == list(range(min(n, taken)))
    items.close()
    assert threads() == []


def test_no_more_is_made_than_may_wait():
    made, may = [], threading.Semaphore(0)

    def make():
        for i in range(100):
            made.append(i)
            may.release()
            yield i

    items = ahead(make, 3)
    assert next(items) == 0
    for _ in range(4):  # the one in use, and three that wait
        assert may.acquire(timeout=10)
    assert not may.acquire(timeout=0.2)
    assert made == [0, 1, 2, 3]
    items.close()
    assert made == [0, 1, 2, 3]


def test_an_error_is_raised_when_its_turn_comes():
    def make():
        yield 1
        yield 2
        raise KeyError("three")

    items = ahead(make, 5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(KeyError, match="three"):
        next(items)
    assert threads() == []


def test_an_error_of_making_it_is_raised():
    def make():
        raise OSError("no such thing")

    with pytest.raises(OSError, match="no such thing"):
        list(ahead(make, 1))


@pytest.mark.parametrize("how", ["close", "drop"])
def test_who_stops_early_closes_the_iterator_in_its_thread(how):
    closed = []

    def make():
        try:
            yield from range(100)
        finally:
            closed.append(threading.current_thread().name)

    items = ahead(make, 2)
    next(items)
    if how == "close":
        items.close()
    else:
        del items
        gc.collect()
    assert closed == ["medloop-ahead"]
    assert threads() == []
