"""Many independent pieces of work through joblib: local processes, or a Dask cluster, by a flag.

The same function and the same items give the same results in this process, in others and on a
cluster. Nothing is scheduled here; joblib and Dask do that. Ray's backend for joblib (ray 2.60)
gives no result before the last one is there, so that nothing could be kept of work that is stopped:
it is not offered.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import socket
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from enhance.errors import EnhanceError, require
from enhance.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")

DEATHS = 3
"""Worker processes that may die before the work is given up: what kills them is then the work."""

_WAIT_SECONDS = 10


def cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def run(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    cluster: str = "",
    batch: int | Literal["auto"] = "auto",
    threads: int = 1,
) -> Generator[tuple[int, Result], None, None]:
    """Results as they are done, each with the index of its item.

    ``function`` must be importable where workers run: one of a module, or a partial of one. The
    items travel by pickle, ``batch`` at once (short ones are best left to joblib). Each call is
    made in this process's current folder, also where workers began in another.

    ``jobs`` are local processes, with ``threads`` of BLAS and OpenMP each; 1 works in this one, 0
    takes one per core. ``cluster`` is the address of a Dask scheduler, such as
    ``tcp://HOST:8786``, with workers of its own that see the same files under the same names.

    An `EnhanceError` if the cluster cannot be reached, or `DEATHS` workers died; and whatever
    ``function`` raises, which ends the rest: return what is to be survived.
    """
    jobs = jobs or cores()
    if not cluster and (jobs == 1 or len(items) <= 1):
        yield from ((index, function(item)) for index, item in enumerate(items))
        return
    require("measure", "joblib")
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # A worker that has grown is replaced between two items, which concerns nobody.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
    left = dict(enumerate(items))
    folder = str(Path.cwd())
    for death in range(1, DEATHS + 1):
        # Never one worker: joblib would then work in this process, and what kills a worker is near.
        with _backend(cluster, max(2, min(jobs, len(left))), threads) as settings:
            pool = Parallel(return_as="generator_unordered", batch_size=batch, **settings)
            found = pool(
                delayed(_call)(function, folder, index, item) for index, item in list(left.items())
            )
            try:
                for index, result in found:
                    del left[index]
                    yield index, result
                return
            except TerminatedWorkerError as error:
                if death == DEATHS:
                    raise _died(error) from error
            finally:
                found.close()


@dataclass(frozen=True)
class Workers:
    """Who does many pieces of work, as `run` takes them, and whether a bar tells of it."""

    jobs: int = 1
    cluster: str = ""
    quiet: bool = False
    """No progress bar."""

    def each(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        text: str,
        *,
        batch: int | Literal["auto"] = "auto",
        speed: Callable[[], str] = str,
    ) -> Generator[tuple[int, Result], None, None]:
        """As `run`, with a progress bar: what is done, and its speed, asked after each result."""
        work = run(function, items, jobs=self.jobs, cluster=self.cluster, batch=batch)
        with progress_bar(quiet=self.quiet) as bar, contextlib.closing(work) as done:
            task = bar.add_task(text, total=len(items), speed="")
            for result in done:
                yield result
                bar.update(task, advance=1, speed=speed())

    def every(self, *args: Any, **more: Any) -> list[Any]:
        """Results of `each`, in the order of the items."""
        return [result for _, result in sorted(self.each(*args, **more), key=lambda x: x[0])]


def _call(
    function: Callable[[Item], Result], folder: str, index: int, item: Item
) -> tuple[int, Result]:
    if str(Path.cwd()) != folder:
        try:
            os.chdir(folder)
        except OSError as error:
            raise EnhanceError(
                f"a worker on {os.uname().nodename} has no folder {folder} "
                "(workers, those of --cluster too, must see the same files)"
            ) from error
    return index, function(item)


def _died(error: BaseException) -> EnhanceError:
    return EnhanceError(
        f"{DEATHS} worker processes died (out of memory, or a crash inside a library): "
        f"{str(error).splitlines()[0]}; what is done is kept: run it again, with fewer --jobs if "
        "memory is short"
    )


def check_cluster(address: str) -> None:
    """Refuse an address where nobody listens by an `EnhanceError` that says how to start a Dask.

    At once: Dask itself tries for long, and leaves a client.
    """
    parts = re.fullmatch(r"(?:\w+://)?\[?([\w.:-]+?)\]?:(\d{1,5})", address)
    try:
        if parts is None:
            raise ValueError("not like tcp://HOST:8786")
        socket.create_connection((parts[1], int(parts[2])), _WAIT_SECONDS).close()
    except (OSError, OverflowError, ValueError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> EnhanceError:
    return EnhanceError(
        f"--cluster {address}: no Dask scheduler can be reached there ({error}); start one "
        "with: dask scheduler, and workers with: dask worker ADDRESS --nthreads 1"
    )


@contextlib.contextmanager
def _backend(cluster: str, jobs: int, threads: int) -> Iterator[dict[str, Any]]:
    """What `joblib.Parallel` is told of where the work is done."""
    if not cluster:
        local = {"inner_max_num_threads": threads, "initializer": _start}
        yield {"n_jobs": jobs, "backend": "loky", **local}
        return
    require("cluster", "dask", "distributed")
    check_cluster(cluster)
    from dask.distributed import Client, KilledWorker
    from joblib._dask import DaskDistributedBackend  # what backend="dask" makes

    class Backend(DaskDistributedBackend):
        """As it is, but for what it would wait for without end, or do in this very process."""

        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))  # of one core it makes no use

        def submit(self, func: Any, callback: Any = None) -> Any:
            future = super().submit(func, callback)
            if callback is not None:
                future.add_done_callback(lambda f: f.exception() and callback(f.exception()))
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            if isinstance(out, BaseException):
                raise out
            return super().retrieve_result_callback(out)

    try:
        client = Client(cluster, timeout=_WAIT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise _unreachable(cluster, error) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise EnhanceError(
                f"--cluster {cluster}: the scheduler has no workers; start some with: "
                f"dask worker {cluster} --nthreads 1"
            )
        try:
            yield {"n_jobs": -1, "backend": Backend(client=client)}
        except KilledWorker as error:
            raise _died(error) from error


def _start() -> None:
    """In a local worker: Ctrl-C is for the process that reads the results."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def torch_threads(count: int = 1) -> Iterator[None]:
    """Let torch compute with ``count`` threads inside; the number before is restored.

    What is done hop by hop loses in a pool of threads many times over.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage for a while: imports and tracing make millions of small objects that
    stay, and to go through them again and again takes a fifth of their time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
