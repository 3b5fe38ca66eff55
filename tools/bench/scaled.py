"""What a network would take with more layers than its file has: of each kind of layer, what one takes.

A file of three layers of the 26B (`make_model.py l3.gguf --layers 3`) has two sliding ones and a full one,
the 26B 25 and 5. What is outside the layers, such as the head, counts once.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgguf.model.cache import KVCache
from dgguf.model.transformer import Transformer


@dataclass
class Spent:
    """Seconds of some work.

    Attributes:
        layers: of each layer that was computed, by whether it is a sliding one.
        rest: outside the layers.
    """

    layers: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    rest: float = 0.0

    @property
    def all(self) -> float:
        """Of the network as it is."""
        return self.rest + sum(map(sum, self.layers.values()))

    def scaled(self, sliding: int, full: int) -> float:
        """Of a network with so many layers of each kind."""
        kinds = ((self.layers[True], sliding), (self.layers[False], full))
        return self.rest + sum(n * sum(found) / len(found) for found, n in kinds if found)


class Scaled:
    """Times the layers of a network one by one; it must have one thread, if the clock counts those of all.

    Args:
        network: whose method `layer` is replaced.
        clock: seconds; processor time says most on a busy machine.
    """

    def __init__(self, network: Transformer, clock: Callable[[], float] = time.process_time) -> None:
        self._clock, self._spent, layer = clock, Spent(), network.layer

        def timed(x, config, *arguments):
            began = clock()
            x = layer(x, config, *arguments)
            self._spent.layers[config.sliding].append(clock() - began)
            return x

        network.layer = timed

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> tuple[Spent, Any]:
        """What some work takes, and returns."""
        self._spent, began = Spent(), self._clock()
        result = work(*arguments)
        seconds = self._clock() - began
        spent, self._spent = self._spent, Spent()  # what nobody times goes to another one
        spent.rest = seconds - spent.all
        return spent, result


class _Inner(list):
    """Layers of a cache, of which none is the last one: whose keys and values alone an encoder pass wants."""

    def __getitem__(self, index):
        return None if index == -1 else super().__getitem__(index)


def all_layers_encode(cache: KVCache) -> None:
    """Let encoder passes into a cache compute the last layer as the others, as a deeper network would."""
    cache.layers = _Inner(cache.layers)


def fill(cache: KVCache, position: int, rng: np.random.Generator) -> None:
    """Let a cache of bfloat16 hold random keys and values of so many positions, as if they were encoded."""
    for layer in cache.layers:
        layer.length = position if layer.window is None else min(position, layer.window - 1)
        layer.start = position - layer.length
        for rows in (layer.keys, layer.values):
            for head in rows:
                for first in range(0, layer.length, 4096):
                    some = head[first : min(first + 4096, layer.length)]
                    some[:] = rng.standard_normal(some.shape, np.float32).view(np.uint32) >> np.uint32(16)
    cache._ids = np.zeros(position, np.int64)
