"""Batches in this process: with the demo, and with a network that only says what it was asked."""

import contextlib
import json

import pytest

import dgguf
from dgguf.batch.local import LocalWorker
from dgguf.batch.results import answered, identifier
from dgguf.batch.run import Job, run
from dgguf.batch.work import RowWorker, Task

SHORT = {"max_tokens": 16, "canvas": "auto", "sampler": {"max_steps": 3}}


class Scripted:
    """Answers rows at once: with their prompts, and how many rows came before.

    Args:
        seed: of the run.
        until: rows after which it is stopped.
    """

    def __init__(self, seed, until=None):
        self.identity = {"model": "0123456789abcdef", "arithmetic": "none"}
        self.seen, self._seed, self._until = [], seed, until

    def answers(self, rows, stop):
        for row in rows:
            if stop() or len(self.seen) == self._until:
                return
            self.seen.append(row)
            message = {"content": json.dumps(row.body)}
            body = {
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2},
                "dgguf": [{"completion_tokens": 2, "steps": 1, "seed": 0}],
            }
            yield row, answered(identifier(self._seed, row.custom_id), row.custom_id, body)

    def checks(self, rows):
        for row in rows:
            yield row, None


class Batch:
    """Runs of one batch.

    Attributes:
        out: its results.
        workers: of the last run.
    """

    def __init__(self, folder):
        self.out, self.workers = folder / "out.jsonl", None
        self.advanced = 0

    def run(self, source, workers=Scripted, settings=None, stop=lambda: False, **job):
        job = {"out": self.out, "seed": 7} | job

        def opened(seed):
            self.workers = workers(seed)
            return contextlib.nullcontext(self.workers)

        def advanced(progress):
            self.advanced += 1

        return run(Job(source, **job), settings or {}, opened, lambda progress: None, advanced, stop)

    def results(self):
        """The results, by custom_id; each is there once."""
        lines = [json.loads(line) for line in self.out.read_bytes().splitlines()]
        found = {line["custom_id"]: line for line in lines}
        assert len(found) == len(lines)
        return found


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


@pytest.fixture(scope="session")
def session():
    with dgguf.load("demo", threads=1) as session:
        yield session


@pytest.fixture
def demo(session):
    """Makes workers of the demo, for tasks with what is given."""

    def make(**given):
        return lambda seed: LocalWorker(RowWorker(session, Task(seed, ".", **SHORT | given)))

    return make


def write_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path
