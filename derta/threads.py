"""A function of many items in several threads, which neither an error nor Ctrl-C has to wait for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Yield the results of `function` for `items` as they come, from `workers` threads.

    If one fails, no further one is started; the results of those in progress are yielded before its error is raised.
    The threads are daemons: unlike those of an executor, they keep no process alive that is to end.
    """
    todo, done = deque(items), SimpleQueue[tuple[R] | BaseException | None]()

    def work():
        with suppress(IndexError):
            while True:
                item = todo.popleft()
                try:
                    done.put((function(item),))
                except BaseException as failure:
                    todo.clear()
                    done.put(failure)
        done.put(None)

    running, failures = min(workers, len(todo)), []
    for _ in range(running):
        Thread(target=work, daemon=True).start()
    try:
        while running:
            found = done.get()
            if found is None:
                running -= 1
            elif isinstance(found, BaseException):
                failures.append(found)
            else:
                yield found[0]
    finally:
        todo.clear()
    if failures:
        raise failures[0]
