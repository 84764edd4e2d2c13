"""Worker processes for data_prep: started afresh (never forked), few tasks ahead, gone when the parent is."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

from stedm_jax.errors import ORPHANED

Task = TypeVar("Task")
Result = TypeVar("Result")


def leave_with(parent: int) -> None:
    """Ends this process when `parent`, the process that started it, was killed; nobody else would."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def map_in_order(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Result]]:
    """Calls a function for each task in parallel, and yields (task, result) in the order of the tasks.

    At most two tasks for each worker are begun before their turn, so that results do not pile up.
    """
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, function(task)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, leave_with, (os.getpid(),))
    try:
        running: list[tuple[Task, Future[Result]]] = []
        for task in tasks:
            running.append((task, pool.submit(function, task)))
            if len(running) >= 2 * workers:
                first, future = running.pop(0)
                yield first, future.result()
        for first, future in running:
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
