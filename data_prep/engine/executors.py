"""Where tasks run: in this process, in processes beside it, or on a dask cluster; all through
concurrent.futures.

Processes are started afresh (never forked) and end when their parent does. No more tasks are
submitted than run at once. A task that kills its worker is identified and reported; the others run
again.
"""

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, TypeVar

from stedm_jax.common.errors import ORPHANED, UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
PATIENCE = 30
"""Seconds that a scheduler and its first worker may take to answer."""


class WorkerDied(Exception):
    """A task took its worker with it: killed for its memory, or by a fault in a library."""


def leave_with(parent: int) -> None:
    """Ends this process when `parent`, the process that started it, is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int = 1, scheduler: str = ""
) -> Iterator[tuple[int, Result | WorkerDied]]:
    """Calls a function for each task, and yields (number of the task, result) as they finish.

    Args:
      function: of a module, so that other processes know it; an exception of its own ends
        everything.
      tasks: its arguments.
      workers: processes; 1: only this one.
      scheduler: address of a dask scheduler, in place of them.

    Raises:
      UserError: no scheduler answers, or it was lost.
    """
    if scheduler:
        with _client(scheduler) as (executor, size, deadly):
            yield from _drain(function, tasks, lambda _: nullcontext(executor), size, deadly)
    elif workers == 1 or len(tasks) < 2:
        yield from ((number, function(task)) for number, task in enumerate(tasks))
    else:
        size = min(workers, len(tasks))
        yield from _drain(function, tasks, _pool, size, (BrokenProcessPool,))


def run_all(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int = 1
) -> Iterator[Result]:
    """Calls a function for each task, and yields the results as they finish.

    Raises:
      UserError: a task killed its worker.
    """
    for number, result in run_tasks(function, tasks, workers):
        if isinstance(result, WorkerDied):
            raise UserError(f"A worker died over {tasks[number]}: {result}")
        yield result


@contextmanager
def _pool(size: int) -> Iterator[Executor]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(size, context, leave_with, (os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _drain(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    make: Callable[[int], AbstractContextManager[Executor]],
    size: int,
    deadly: tuple[type[BaseException], ...],
) -> Iterator[tuple[int, Result | WorkerDied]]:
    """Runs tasks on an executor; those that were running when a worker died run again, side by side
    but each on an executor of its own, so that it is plain which one kills its worker.

    Args:
      function, tasks: as of run_tasks.
      make: makes an executor of so many workers.
      size: how many tasks run at once.
      deadly: what futures raise when a worker died.
    """
    waiting = deque(range(len(tasks)))

    def alone(number: int) -> tuple[int, Result | WorkerDied]:
        with make(1) as executor:
            try:
                return number, _result(executor.submit(function, tasks[number]))
            except deadly as error:
                return number, WorkerDied(str(error))

    while waiting:
        suspects: list[int] = []
        running: dict[Future[Result], int] = {}
        with make(size) as executor:
            while running or (waiting and not suspects):
                # One that waits for its turn is no suspect.
                while waiting and not suspects and len(running) < size:
                    number = waiting.popleft()
                    try:
                        running[executor.submit(function, tasks[number])] = number
                    except deadly:
                        suspects.append(number)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(future)
                    try:
                        result = _result(future)
                    except deadly:
                        suspects.append(number)
                    else:
                        yield number, result
        with ThreadPoolExecutor(size) as threads:
            yield from threads.map(alone, sorted(suspects))


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except CancelledError as error:
        raise UserError(
            "The scheduler was lost, or canceled its tasks. Start it again and run the same "
            "command: what is finished is kept."
        ) from error


@contextmanager
def _client(address: str) -> Iterator[tuple[Executor, int, tuple[type[BaseException], ...]]]:
    """An executor of a dask scheduler, the number of its workers' threads, and what it raises when
    a worker died."""
    try:
        import distributed
    except ImportError as error:
        raise UserError("--scheduler needs dask: pip install 'stedm_jax[cluster]'.") from error
    try:
        client: Any = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UserError(
            f"No dask scheduler answers at --scheduler={address} "
            f"({error or type(error).__name__}); start one with `dask scheduler`, or correct the "
            "address."
        ) from error
    with closing(client):
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise UserError(
                f"The scheduler at {address} has no worker; start some with "
                f"`dask worker {address} --nthreads 1`."
            ) from error
        size = sum(client.nthreads().values())
        yield client.get_executor(pure=False), size, (distributed.KilledWorker,)
