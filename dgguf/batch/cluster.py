"""Rows that are computed by workers on Ray: each an actor with a session of its own.

Ray starts a worker that died anew and runs its row again; here rows are handed out in order, as many as keep
every worker busy, and taken back as they finish. Ray Data is not used for it: its blocks are computed again
as a whole after a failure, and it keeps neither the order of prompts nor a journal of rows.
"""

import contextlib
import io
import os
import socket
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from dgguf.batch.results import Result, identifier, refused
from dgguf.batch.rows import Row
from dgguf.batch.work import RowWorker, Stop, Task
from dgguf.errors import BackendError, DggufError, extra, one_line
from dgguf.interrupts import kept
from dgguf.server.errors import ApiError
from dgguf.session import Session

_AHEAD = 2  # rows that each worker has: the one that it computes, and the next
_TRIES = 3  # times that a row is run again where its worker dies
_MOST_LOST = 3  # rows in a row whose workers died each time, after which the batch ends
_DIE = "the workers die again and again, maybe for want of memory: use fewer of them"
_PATIENCE = 1.0  # seconds between two looks at whether to stop


@dataclass(frozen=True)
class Cluster:
    """Where workers run.

    Attributes:
        address: of Ray; "auto" for the cluster that runs here, else for one that ends with the batch.
        workers: how many; None for as many as its processors allow.
        threads: of each.
        loading: the other arguments of `Session`; a path must lead to the same model on each node.
    """

    address: str
    workers: int | None
    threads: int
    loading: dict[str, Any]


class RowActor:
    """What runs in a worker's process. The model is opened by the first call, also after a restart."""

    def __init__(self, loading: dict[str, Any], task: Task) -> None:
        self._loading, self._task = loading, task
        self._worker: RowWorker | None = None

    def _opened(self) -> RowWorker:
        if self._worker is None:
            self._worker = RowWorker(Session(**self._loading), self._task)
        return self._worker

    def identity(self) -> tuple[str, dict[str, str]]:
        """The node's name, and what results depend on there."""
        return socket.gethostname(), self._opened().identity()

    def answer(self, row: Row) -> Result:
        result = self._opened().answer(row)
        assert result is not None  # nobody stops it
        return result

    def check(self, row: Row) -> Result | None:
        return self._opened().check(row)

    def usage(self) -> tuple[int, float]:
        """The process's number, and the processor time that it has taken, in seconds."""
        times = os.times()
        return os.getpid(), times.user + times.system


def import_ray() -> Any:
    """The module ray.

    Raises:
        BackendError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report its use to its makers
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise BackendError(f"workers on Ray need one more package: {extra('ray')}") from None
    return ray


@contextlib.contextmanager
def open_workers(cluster: Cluster, task: Task) -> Iterator["RayWorkers"]:
    """Start workers on Ray, and end them when the context is left.

    Raises:
        BackendError: Ray cannot be reached or has too few processors, or nodes differ in what they compute.
        DggufError: the model cannot be opened there.
    """
    with contextlib.redirect_stdout(sys.stderr):  # where Ray says that a worker died
        with kept():  # Ray would answer SIGTERM with a trace and an exit code of its own
            ray = import_ray()
            _connect(ray, cluster.address)
        actors: list[Any] = []
        try:
            most = int(ray.cluster_resources().get("CPU", 0)) // cluster.threads
            n = most if cluster.workers is None else cluster.workers
            if not 1 <= n <= most:
                raise BackendError(
                    f"Ray has processors for {most} workers of {cluster.threads} threads, not for "
                    f"{max(n, 1)}: ask for fewer --workers or --threads"
                )
            actor = ray.remote(RowActor).options(
                num_cpus=cluster.threads, max_restarts=-1, max_task_retries=_TRIES
            )
            loading = {"threads": cluster.threads, **cluster.loading}
            actors += [actor.remote(loading, task) for _ in range(n)]
            yield RayWorkers(ray, actors, task.seed)
        finally:
            with kept(), contextlib.redirect_stdout(io.StringIO()):  # Ray tells of each row cut off
                for each in actors:
                    ray.kill(each)
                ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one that nobody else can reach."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if address != "auto":
            ray.init(address, **quiet)
            return
        try:
            ray.init("auto", **quiet)
        except ConnectionError:
            os.environ.setdefault("RAY_worker_niceness", "0")  # 15: behind all that runs beside them
            ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, **quiet)
    except Exception as error:  # of no class of its own where a start takes too long
        what = "cannot be started here" if address == "auto" else f"cannot be reached at {address}"
        raise BackendError(f"Ray {what}: {one_line(str(error)):.300}") from None


class RayWorkers:
    """Hands rows out to actors, and takes results as they finish.

    Args:
        ray: the module.
        actors: each a `RowActor`.
        seed: of the run.

    Attributes:
        actors: as above.
        identity: what results depend on, the same on all nodes.
    """

    def __init__(self, ray: Any, actors: list[Any], seed: int) -> None:
        self._ray, self.actors, self._seed = ray, actors, seed
        try:
            found = [self._get(ref) for ref in [each.identity.remote() for each in actors]]
        except ray.exceptions.RayError as error:
            why = str(error).strip().rpartition("\n")[2]
            raise BackendError(f"a worker cannot start, maybe for another dgguf on its node: {why}") from None
        (host, self.identity), *others = found
        for other, identity in others:
            for name, value in identity.items():
                if value != self.identity[name]:
                    raise BackendError(
                        f"the workers' results would differ: {name} is {self.identity[name]} on {host} and "
                        f"{value} on {other}; give all nodes the same"
                    )

    def _get(self, reference: Any) -> Any:
        """The result of a task; raises what it raised, where that is one of ours."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DggufError):
                raise error.cause from None
            raise BackendError(f"a worker failed: {error.cause!r}") from None

    def answers(self, rows: Iterator[Row], stop: Stop) -> Generator[tuple[Row, Result], None, None]:
        lost = 0
        for row, reference in self._handed_out(rows, "answer", stop):
            try:
                result: Result = self._get(reference)
                lost = 0
            except self._ray.exceptions.RayActorError:
                lost += 1
                if lost > _MOST_LOST:
                    raise BackendError(_DIE) from None
                name = identifier(self._seed, row.custom_id)
                message = f"its worker died {_TRIES + 1} times"
                result = refused(name, row.custom_id, ApiError(500, message, kind="server_error"))
            yield row, result

    def checks(self, rows: Iterator[Row]) -> Generator[tuple[Row, Result | None], None, None]:
        for row, reference in self._handed_out(rows, "check", lambda: False):
            try:
                yield row, self._get(reference)
            except self._ray.exceptions.RayActorError:
                raise BackendError(_DIE) from None

    def _handed_out(self, rows: Iterator[Row], method: str, stop: Stop) -> Iterator[tuple[Row, Any]]:
        """Rows and references to what became of them, as they finish."""
        free = self.actors * _AHEAD
        busy: dict[Any, tuple[Row, Any]] = {}
        while True:
            while free and not stop() and (row := next(rows, None)):
                actor = free.pop(0)
                busy[getattr(actor, method).remote(row)] = row, actor
            if not busy:
                return
            for reference in self._ray.wait(list(busy), num_returns=1, timeout=_PATIENCE)[0]:
                row, actor = busy.pop(reference)
                free.append(actor)
                yield row, reference
