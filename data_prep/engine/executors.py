"""Where tasks run: in this process, in processes beside it, or on a dask cluster; all through
concurrent.futures.

Processes are started afresh (never forked) and are gone when their parent is. No more tasks are
submitted than run at once. A task that kills its worker is found out and told; the others run
again.
"""

import multiprocessing
import os
import re
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
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

from stedm_jax.common.errors import ORPHANED, UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
PATIENCE = 30
"""Seconds that a scheduler and its first worker may take to answer."""


ADDRESS = re.compile(r"([a-z]+://)?(\[[0-9a-fA-F:]+\]|[^\s/:]+):\d{1,5}")


def check_address(address: str) -> None:
    """Refuses what cannot be the address of a scheduler; a port that is missing is waited for in
    vain.

    Raises:
      UserError: says how it is written.
    """
    if address and not ADDRESS.fullmatch(address):
        raise UserError(
            f"--scheduler={address} is no address with a port; write it as the scheduler prints it, such as "
            "tcp://host:8786."
        )


class WorkerDied(Exception):
    """A task took its worker with it: killed for its memory, or by a fault in a library."""


def leave_with(parent: int) -> None:
    """Ends this process when `parent`, the process that started it, was killed; nobody else
    would."""

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
        check_address(scheduler)
        with _client(scheduler) as (executor, size, deadly):
            yield from _drain(function, tasks, lambda _: _Kept(executor), size, deadly)
    elif workers == 1 or len(tasks) < 2:
        yield from ((number, function(task)) for number, task in enumerate(tasks))
    else:
        yield from _drain(function, tasks, _pool, min(workers, len(tasks)), (BrokenProcessPool,))


def map_in_order(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int = 1, scheduler: str = ""
) -> Iterator[tuple[Task, Result]]:
    """Calls a function for each task, and yields (task, result) in the order of the tasks.

    Raises:
      UserError: a task killed its worker, or as of run_tasks.
    """
    found: dict[int, Result] = {}
    turn = 0
    for number, result in run_tasks(function, tasks, workers, scheduler):
        if isinstance(result, WorkerDied):
            raise UserError(f"A worker died over {tasks[number]}: {result}")
        found[number] = result
        while turn in found:
            yield tasks[turn], found.pop(turn)
            turn += 1


class _Kept(AbstractContextManager[Executor]):
    """An executor that outlives the block."""

    def __init__(self, executor: Executor):
        self._executor = executor

    def __enter__(self) -> Executor:
        return self._executor

    def __exit__(self, *error: object) -> None:
        return None


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
    """Runs tasks on an executor that `make` makes; those under way when a worker died run again,
    each by itself."""
    waiting = deque(range(len(tasks)))
    while waiting:
        suspects: list[int] = []
        with make(size) as executor:
            yield from _until_broken(function, tasks, executor, waiting, size, deadly, suspects)
        yield from _apart(function, tasks, make, size, deadly, deque(sorted(suspects)))


def _apart(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    make: Callable[[int], AbstractContextManager[Executor]],
    size: int,
    deadly: tuple[type[BaseException], ...],
    waiting: deque[int],
) -> Iterator[tuple[int, Result | WorkerDied]]:
    """Runs tasks side by side, each on an executor of its own, so that it is plain which one kills
    its worker."""
    running: dict[Future[Result], tuple[int, ExitStack]] = {}
    try:
        while running or waiting:
            while waiting and len(running) < size:
                number, stack = waiting.popleft(), ExitStack()
                executor = stack.enter_context(make(1))
                running[executor.submit(function, tasks[number])] = (number, stack)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, stack = running.pop(future)
                with stack:
                    try:
                        result: Result | WorkerDied = _result(future)
                    except deadly as error:
                        result = WorkerDied(str(error))
                yield number, result
    finally:
        for _, stack in running.values():
            stack.close()


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except CancelledError as error:
        raise UserError(
            "The scheduler was lost, or cancelled what it was to do. Start it again and run the same command: "
            "what is finished is kept."
        ) from error


def _until_broken(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    executor: Executor,
    waiting: deque[int],
    size: int,
    deadly: tuple[type[BaseException], ...],
    suspects: list[int],
) -> Iterator[tuple[int, Result]]:
    running: dict[Future[Result], int] = {}
    while running or (waiting and not suspects):
        while (
            waiting and not suspects and len(running) < size
        ):  # one that waits its turn is no suspect
            number = waiting.popleft()
            try:
                running[executor.submit(function, tasks[number])] = number
            except deadly:
                suspects.append(number)
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            number = running.pop(future)
            try:
                result = _result(future)
            except deadly:
                suspects.append(number)
            else:
                yield number, result


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
            f"No dask scheduler answers at --scheduler={address} ({error or type(error).__name__}); start one with "
            "`dask scheduler`, or correct the address."
        ) from error
    try:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise UserError(
                f"The scheduler at {address} has no worker; start some with `dask worker {address} --nthreads 1`."
            ) from error
        size = sum(client.nthreads().values())
        yield client.get_executor(pure=False), size, (distributed.KilledWorker,)
    finally:
        client.close()
