import threading
import time

import pytest

from medloop.engine import map_batches
from medloop.engine.local import cores
from medloop.errors import UsageError


@pytest.mark.parametrize("workers", [1, 2, 7, None])
@pytest.mark.parametrize("batch", [1, 3, 10, 100])
def test_results_come_in_order_whoever_is_faster(workers, batch):
    def slow_at_first(numbers):
        time.sleep(0.002 if numbers[0] < 5 else 0)
        return list(numbers)

    got = list(map_batches(slow_at_first, range(23), batch=batch, workers=workers))
    assert [number for part in got for number in part] == list(range(23))
    assert [len(part) for part in got[:-1]] == [batch] * (len(got) - 1)


def test_nothing_gives_nothing():
    assert list(map_batches(len, [], batch=4)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_it_runs_only_a_few_batches_ahead(workers):
    begun = []
    taken = 0
    for number in map_batches(
        lambda part: begun.append(part) or part[0], range(60), batch=1, workers=workers
    ):
        assert number == taken
        taken += 1
        time.sleep(0.001)
        assert len(begun) <= taken + 2 * workers
    assert taken == 60


def test_nothing_begins_before_it_is_asked_for():
    begun = []
    results = map_batches(begun.append, range(10), batch=1)
    time.sleep(0.01)
    assert begun == []
    results.close()
    assert begun == []


def test_an_error_reaches_the_reader_after_the_results_before_it():
    class Broken(Exception):
        pass

    def fail_at_three(part):
        if part[0] == 3:
            raise Broken("three")
        return part[0]

    results = map_batches(fail_at_three, range(100), batch=1, workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Broken, match="three"):
        next(results)
    assert list(results) == []


def test_a_reader_that_stops_early_leaves_no_thread_behind():
    before = threading.active_count()
    begun = []
    start = time.perf_counter()
    for _ in map_batches(
        lambda part: begun.append(part) or time.sleep(0.01), range(10_000), batch=1, workers=2
    ):
        break
    assert time.perf_counter() - start < 2
    assert threading.active_count() == before
    assert len(begun) < 10


def test_one_worker_is_one_thread():
    names = set(map_batches(lambda part: threading.get_ident(), range(20), batch=2, workers=1))
    assert len(names) == 1


def test_batches_may_use_batches():
    def inner(part):
        return sum(map_batches(sum, part, batch=1, workers=1))

    assert list(map_batches(inner, [1, 2, 3] * 3, batch=3, workers=2)) == [6, 6, 6]


def test_impossible_sizes_are_refused_at_once():
    for batch, workers in ((0, 1), (-1, 1), (1, 0), (1, -2)):
        with pytest.raises(UsageError, match=f"got {batch} and {workers}"):
            map_batches(len, [1], batch=batch, workers=workers)
    assert cores() >= 1
