"""A deterministic automaton over bytes, made from a tree of `nodes` by the subset construction.

Its size is limited, in states and in work, so that no expression, however nested, takes long or much memory.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Sequenced
from dataclasses import dataclass

import numpy as np

from dgguf.constraints.nodes import (
    Both,
    Characters,
    Node,
    OneOf,
    Ranges,
    Repeat,
    Sequence,
    Text,
    utf8,
)
from dgguf.errors import ConstraintError

MOST_STATES = 40_000
_MOST_NODES, _MOST_EDGES = 200_000, 1_000_000
_MOST_WORK = 5_000_000  # moves of sets of nodes: a few seconds
_TOO_LARGE = (
    f"it needs an automaton of more than {MOST_STATES:,} states: use smaller repetitions (maxLength, "
    "maxItems, {m,n}), fewer optional properties or fewer alternatives"
)


class _EmptyError(ConstraintError):
    """No text belongs to a language."""


@dataclass(frozen=True)
class Automaton:
    """Reads bytes; every state can reach an accepting one. State 0 is the first.

    Attributes:
        moves: (S, classes) int32, the next state by state and class of the byte; -1 for none.
        byte_class: (256,) int32, the class of each byte.
        accepting: (S,) bool, whether what was read up to here belongs to the language.
        distance: (S,) int32, bytes to the nearest accepting state.
        source: what it was made of, in words that `language.from_source` reads.
    """

    moves: np.ndarray
    byte_class: np.ndarray
    accepting: np.ndarray
    distance: np.ndarray
    source: str = ""

    def __len__(self) -> int:
        return len(self.moves)

    def read(self, data: bytes, state: int = 0) -> int:
        """The state behind some bytes; -1 where no text of the language goes so."""
        for byte in data:
            if state < 0:
                return -1
            state = int(self.moves[state, self.byte_class[byte]])
        return state

    def matches(self, text: str) -> bool:
        """Whether a text belongs to the language."""
        state = self.read(text.encode(errors="surrogatepass"))
        return state >= 0 and bool(self.accepting[state])


class Effort:
    """What making the automata of one document may take, all together."""

    def __init__(self) -> None:
        self._work = 0
        self._both: dict[Both, Automaton | None] = {}

    def spend(self, work: int, says: str = _TOO_LARGE) -> None:
        """Count some work; `says` is the error where it is too much."""
        self._work += work
        if self._work > _MOST_WORK:
            raise ConstraintError(says)

    def both(self, node: Both) -> Automaton | None:
        """The automaton of what belongs to two languages, made once; None where nothing does."""
        if node not in self._both:
            try:
                left, right = compile_node(node.left, self), compile_node(node.right, self)
                self._both[node] = _product(left, right, self)
            except _EmptyError:
                self._both[node] = None
        return self._both[node]


def compile_node(node: Node, effort: Effort | None = None) -> Automaton:
    """The automaton of a language.

    Args:
        effort: of the document that it is a part of; None where it is all.

    Raises:
        ConstraintError: no text belongs to it, or it takes too many states.
    """
    graph = _Graph(effort or Effort())
    end = graph.add(node, 0)
    return _trimmed(*_determine(graph, end))


def in_text(parts: Sequenced[str | Automaton]) -> Automaton:
    """The automaton of texts and languages, one after the other.

    Raises:
        ConstraintError: it takes too many states.
    """
    graph, end = _Graph(Effort()), 0
    for part in parts:
        end = graph.add(Text(part), end) if isinstance(part, str) else graph.embed(part, end)
    return _trimmed(*_determine(graph, end))


class _Graph:
    """A nondeterministic automaton; node 0 is the first.

    Attributes:
        free: nodes reached from each node without a byte.
        edges: of each node, (first byte, last byte, node).
    """

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self.free: list[list[int]] = [[]]
        self.edges: list[list[tuple[int, int, int]]] = [[]]
        self._n_edges = 0

    def _node(self) -> int:
        if len(self.free) >= _MOST_NODES:
            raise ConstraintError(_TOO_LARGE)
        self.free.append([])
        self.edges.append([])
        return len(self.free) - 1

    def add(self, node: Node, start: int) -> int:
        """Lay a language behind a node; returns the node at its end."""
        match node:
            case Text(text):
                for byte in text.encode():
                    start = self._byte(start, byte)
                return start
            case Characters(ranges):
                return self._characters(ranges, start)
            case Sequence(parts):
                for part in parts:
                    start = self.add(part, start)
                return start
            case OneOf(options):
                end = self._node()
                for option in options:
                    first = self._node()
                    self.free[start].append(first)
                    self.free[self.add(option, first)].append(end)
                return end
            case Repeat():
                return self._repeat(node, start)
            case Both():
                machine = self.effort.both(node)
                return self._node() if machine is None else self.embed(machine, start)

    def _byte(self, start: int, byte: int) -> int:
        end = self._node()
        self.edges[start].append((byte, byte, end))
        return end

    def _characters(self, ranges: Ranges, start: int) -> int:
        end = self._node()
        behind: dict[Ranges, int] = {(): end}  # nodes with the same bytes to come are one
        sequences = utf8(ranges)
        self._n_edges += len(sequences)
        if self._n_edges > _MOST_EDGES:
            raise ConstraintError(_TOO_LARGE)
        for sequence in sequences:
            for i in range(len(sequence) - 1, 0, -1):
                if sequence[i:] not in behind:
                    behind[sequence[i:]] = self._node()
                    self.edges[behind[sequence[i:]]].append((*sequence[i], behind[sequence[i + 1 :]]))
            self.edges[start].append((*sequence[0], behind[sequence[1:]]))
        return end

    def _repeat(self, node: Repeat, start: int) -> int:
        end = self._node()
        if node.least == 0:
            self.free[start].append(end)
        copies = node.most if node.most is not None else max(1, node.least)
        for n in range(copies):
            before = len(self.free)
            if n:
                start = self.add(node.between, start)
            first = self._node()
            self.free[start].append(first)
            start = self.add(node.part, first)
            if n + 1 >= node.least:
                self.free[start].append(end)
            if len(self.free) == before + 1:  # nothing, however often
                self.free[start].append(end)
                break
        else:
            if node.most is None:  # the last one again and again
                self.free[self.add(node.between, start)].append(first)
        return end

    def embed(self, machine: Automaton, start: int) -> int:
        """Lay an automaton behind a node; returns the node at its end."""
        nodes, end = [self._node() for _ in range(len(machine))], self._node()
        self.free[start].append(nodes[0])
        for state in range(len(machine)):
            if machine.accepting[state]:
                self.free[nodes[state]].append(end)
            targets = machine.moves[state, machine.byte_class]
            for first, last in _runs(targets):
                self.edges[nodes[state]].append((first, last, nodes[targets[first]]))
        return end


def _runs(targets: np.ndarray) -> Iterable[tuple[int, int]]:
    """Runs of bytes that lead to one state, those that lead nowhere left out."""
    starts = np.flatnonzero(np.diff(targets, prepend=-2))
    ends = np.append(starts[1:], 256) - 1
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True) if targets[a] >= 0]


class _States:
    """Numbers of states by what they stand for, within the limit."""

    def __init__(self) -> None:
        self.number: dict[object, int] = {}

    def __call__(self, what: object) -> int:
        found = self.number.setdefault(what, len(self.number))
        if found >= MOST_STATES:
            raise ConstraintError(_TOO_LARGE)
        return found


def _determine(graph: _Graph, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moves, classes of bytes and accepting states of an equal deterministic automaton."""
    cuts = sorted({0, *(b for node in graph.edges for low, high, _ in node for b in (low, high + 1))} - {256})
    byte_class = np.repeat(np.arange(len(cuts)), np.diff([*cuts, 256])).astype(np.int32)
    of_byte = byte_class.tolist()
    edges = [[(of_byte[a], of_byte[b] + 1, t) for a, b, t in node] for node in graph.edges]
    states = _States()

    def closure(nodes: Iterable[int]) -> frozenset[int]:
        waiting, seen = list(nodes), set(nodes)
        while waiting:
            node = waiting.pop()
            for other in graph.free[node]:
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        graph.effort.spend(len(seen))
        return frozenset(n for n in seen if edges[n] or n == end)

    first = closure([0])
    states(first)
    sets, known = [first], {}
    moves: list[list[int]] = []
    for found in sets:  # which grows meanwhile
        targets: list[set[int]] = [set() for _ in cuts]
        for node in found:
            for low, high, target in edges[node]:
                graph.effort.spend(high - low)
                for i in range(low, high):
                    targets[i].add(target)
        row = []
        for target_set in targets:
            key = frozenset(target_set)
            if not key:
                row.append(-1)
                continue
            if key not in known:
                known[key] = closure(key)
            state = states(known[key])
            if state == len(sets):
                sets.append(known[key])
            row.append(state)
        moves.append(row)
    accepting = np.array([end in found for found in sets])
    return np.array(moves, np.int32), byte_class, accepting


def _product(left: Automaton, right: Automaton, effort: Effort) -> Automaton:
    """The automaton of what belongs to both languages."""
    pairs, byte_class = np.unique(np.stack((left.byte_class, right.byte_class)), axis=1, return_inverse=True)
    states = _States()
    states((0, 0))
    found, moves = [(0, 0)], []
    for a, b in found:  # which grows meanwhile
        row = []
        for to_a, to_b in zip(
            left.moves[a, pairs[0]].tolist(), right.moves[b, pairs[1]].tolist(), strict=True
        ):
            state = -1
            if to_a >= 0 and to_b >= 0:
                state = states((to_a, to_b))
                if state == len(found):
                    found.append((to_a, to_b))
            row.append(state)
        effort.spend(len(row))
        moves.append(row)
    accepting = np.array([left.accepting[a] and right.accepting[b] for a, b in found])
    return _trimmed(np.array(moves, np.int32), byte_class.ravel().astype(np.int32), accepting)


def _trimmed(moves: np.ndarray, byte_class: np.ndarray, accepting: np.ndarray) -> Automaton:
    """The automaton without the states that no text of the language passes."""
    distance = _distances(moves, accepting)
    if distance[0] < 0:
        raise _EmptyError("no text fits it: its parts contradict each other")
    alive = distance >= 0
    number = np.append(np.where(alive, np.cumsum(alive) - 1, -1), -1)
    return Automaton(
        moves=np.ascontiguousarray(number[moves[alive]].astype(np.int32)),
        byte_class=byte_class,
        accepting=accepting[alive],
        distance=distance[alive],
    )


def _distances(moves: np.ndarray, accepting: np.ndarray) -> np.ndarray:
    """(S,) int32, moves from each state to the nearest accepting one; -1 where none can be reached.

    Each move is looked at once, breadth first, from its end: constants make chains of thousands of states.
    """
    states, classes = np.nonzero((moves >= 0) & (np.diff(moves, axis=1, prepend=-2) != 0))
    targets = moves[states, classes]
    order = np.argsort(targets, kind="stable")
    before = states[order].tolist()
    starts = np.searchsorted(targets[order], np.arange(len(moves) + 1)).tolist()
    reached = np.flatnonzero(accepting).tolist()
    distance = [-1] * len(moves)
    for state in reached:
        distance[state] = 0
    for state in reached:  # which grows meanwhile
        for other in before[starts[state] : starts[state + 1]]:
            if distance[other] < 0:
                distance[other] = distance[state] + 1
                reached.append(other)
    return np.array(distance, np.int32)
