"""Threads that nobody has to wait for."""

import signal
import subprocess
import sys
import time
from threading import Event

import pytest

from derta.threads import in_threads


def test_all_items_are_worked_on_several_at_a_time():
    met = Event()
    waiting = in_threads(lambda item: met.wait(5) if item == "waits" else met.set(), ["waits", "sets"], 2)
    assert sorted(map(bool, waiting)) == [False, True]
    assert sorted(in_threads(lambda item: item * 2, range(50), 4)) == list(range(0, 100, 2))
    assert list(in_threads(str, [], 4)) == []


@pytest.mark.parametrize("error", [ValueError("3 is bad"), KeyboardInterrupt("3 is bad"), IndexError("3 is bad")])
def test_after_an_error_no_item_is_started_and_what_was_done_is_kept(error):
    started = []

    def work(item):
        started.append(item)
        if item == 3:
            raise error
        return item

    results = in_threads(work, range(100), 1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(type(error), match="3 is bad"):
        next(results)
    assert started == [0, 1, 2, 3]


def test_whoever_stops_listening_stops_the_work():
    started = []
    results = in_threads(lambda item: (started.append(item), time.sleep(0.01)), range(1000), 2)
    next(results)
    results.close()
    time.sleep(0.1)
    assert len(started) < 20


def test_ctrl_c_waits_for_no_thread():
    # Whoever starts the tests in the background has SIGINT ignored.
    code = "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from derta.threads import in_threads; print('go', flush=True); "
    code += "list(in_threads(lambda _: time.sleep(60), range(20), 4))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
