"""Decisions: the state is encoded once; each question behind it is read in one step of a short canvas."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dgguf.conversation import Conversation
from dgguf.decisions.prompts import DecisionPrompts, Read, State
from dgguf.decisions.questions import Question, check_number
from dgguf.diffusion.sampler import SeededNoise
from dgguf.errors import NumericsError, PromptError
from dgguf.model.cache import KVCache, places_per_call
from dgguf.model.canvas import Branches, branch_start
from dgguf.model.transformer import Transformer

Samples = int | Literal["auto"]
Progress = Callable[[int, int], None]

AUTO_SAMPLES = 5  # of a question that is not clear
CLEAR = 0.1  # nats; below, one sample will do
MOST_SAMPLES = 100


@dataclass(frozen=True)
class Decision:
    """The answer to one question.

    Attributes:
        question: what was asked.
        probabilities: of each option in its order, summing to 1; of a predicate of True and False.
        answer: the likeliest option.
        confidence: its probability times `mass`.
        mass: the probability of all labels together in the whole vocabulary, averaged over the reads. Little
            mass means that the model wanted to write something else.
        standard_error: of the answer's probability over noise seeds; None where one seed was read.
        reads: slots that were read and averaged: seeds times orders of the options.
        prompt_tokens: of its prompts; one that several questions share counts for the first of them.
        reused_tokens: of these, those that were not encoded for it but found in the KV cache.
        kept_tokens: of these, those that were encoded for it and are kept for what comes next.
        canvas: ids of the first canvas that was read for it; at the slots of all questions noise is read.
        slot: the place in it at which the label was read.
    """

    question: Question
    probabilities: dict[str | bool, float]
    answer: str | bool
    confidence: float
    mass: float
    standard_error: float | None
    reads: int
    prompt_tokens: int
    reused_tokens: int
    kept_tokens: int
    canvas: tuple[int, ...] = ()
    slot: int = 0

    @property
    def score(self) -> float:
        """The mean level, counted from 0; of a predicate the probability of yes."""
        p = list(self.probabilities.values())
        if self.question.kind == "predicate":
            return p[0]
        return sum(level * chance for level, chance in enumerate(p))


class Decider:
    """Decides with a model.

    Args:
        network: of the model.
        prompts: makes prompts for it.
        conversation: whose KV cache keeps the last state.
    """

    def __init__(self, network: Transformer, prompts: DecisionPrompts, conversation: Conversation) -> None:
        self._network = network
        self._prompts = prompts
        self._conversation = conversation

    def __call__(
        self,
        state: State,
        questions: Sequence[Question],
        *,
        samples: Samples = "auto",
        permute: bool = False,
        joint: bool = False,
        progress: Progress | None = None,
    ) -> list[Decision]:
        """Answer questions about a state; see `Session.decide`."""
        check_number(questions)
        if samples != "auto" and not 1 <= samples <= MOST_SAMPLES:
            raise PromptError(f'samples must be "auto" or 1 to {MOST_SAMPLES}, not {samples}')
        if permute and joint:
            raise PromptError("joint answers are read from one prompt: its options cannot be permuted")
        if joint:
            reads = [self._prompts.joint_read(state, questions)]
        else:

            def check(read: Read) -> None:
                self._check_length(read, state)
                if progress:
                    progress(0, 0)

            reads = self._prompts.reads(state, questions, permute=permute, check=check)
        n_prefix = self._prompts.prefix(state, reads)
        with self._conversation.held() as cache:
            batches = list(_batches(reads, n_prefix, cache))  # refused before anything is computed
            found = cache.reuse(reads[0].prompt[:n_prefix])
            count = _Count(sum(len(read.prompt) - n_prefix for read in reads) + n_prefix - found, progress)
            try:
                for first in range(found, n_prefix, cache.rows_per_call):
                    ids = reads[0].prompt[first : min(first + cache.rows_per_call, n_prefix)]
                    self._network.encode(ids, cache)
                    count.add(len(ids))
                seen = []
                for batch in batches:
                    seen += self._read(batch, n_prefix, samples, cache)
                    count.add(sum(len(read.prompt) - n_prefix for read in batch))
            except NumericsError:
                self._conversation.drop()  # what is not a number may lie between what others will see
                raise
        return _decisions(questions, reads, seen, n_prefix, found)

    def _check_length(self, read: Read, state: State) -> None:
        """Refuse a read that is longer than the context, before others are made for the same state."""
        context, rows = self._conversation.context, self._conversation.rows_per_call
        if len(read.prompt) + len(read.canvas) > context:
            _check_room(read, self._prompts.prefix(state, [read]), context, rows)

    def _read(
        self, reads: Sequence[Read], n_prefix: int, samples: Samples, cache: KVCache
    ) -> "list[list[_Seen]]":
        """What is seen at the slots of some reads that go through the network together."""
        suffixes = [read.prompt[n_prefix:] for read in reads]
        length = len(reads[0].canvas)
        branches = Branches(np.array([len(suffix) for suffix in suffixes]), length, n_prefix)
        self._network.encode_suffixes(branches, np.concatenate(suffixes), cache)
        labels = np.unique([token for r in reads for s in r.slots for ids in s.labels for token in ids])
        noise = [SeededNoise(_seed(read.prompt), self._network.config.vocab_size) for read in reads]
        seen: list[list[_Seen]] = [[_Seen() for _ in read.slots] for read in reads]
        which = list(range(len(reads)))
        for sample in range(AUTO_SAMPLES if samples == "auto" else samples):
            canvases = np.stack([reads[i].canvas for i in which])
            slots = []
            for row, i in enumerate(which):
                places = np.array([slot.place for slot in reads[i].slots])
                canvases[row, places] = noise[i].tokens(sample, 0, length)[places]
                slots.append(row * length + places)
            rows = np.concatenate(slots)
            found, totals = self._network.read_labels(
                branches, np.array(which), canvases, rows, labels, cache
            )
            each = iter(zip(found, totals, strict=True))
            for i in which:
                for slot, place in zip(reads[i].slots, seen[i], strict=True):
                    logits, total = next(each)
                    place.add(slot.labels, labels, logits, total)
            if samples == "auto" and sample == 0:
                which = [i for i in which if not all(place.is_clear for place in seen[i])]
            if not which:
                break
        return seen


class _Count:
    """Counts tokens that are encoded, and tells it."""

    def __init__(self, total: int, tell: Progress | None) -> None:
        self._done, self._total, self._tell = 0, total, tell

    def add(self, tokens: int) -> None:
        self._done += tokens
        if self._tell:
            self._tell(self._done, self._total)


class _Seen:
    """What was read at one slot, seed after seed.

    Attributes:
        probabilities: of the options, a vector a seed.
        masses: of the labels in the whole vocabulary.
    """

    def __init__(self) -> None:
        self.probabilities: list[np.ndarray] = []
        self.masses: list[float] = []

    def add(
        self, labels: tuple[tuple[int, ...], ...], tokens: np.ndarray, z: np.ndarray, total: float
    ) -> None:
        """Take one seed's logits.

        Args:
            labels: of each option, its ids.
            tokens, z: (L,) ids, rising, and their logits.
            total: log(sum(exp())) of all logits.
        """
        chances = [
            math.fsum(math.exp(float(z[np.searchsorted(tokens, token)]) - total) for token in ids)
            for ids in labels
        ]
        mass = math.fsum(chances)
        if mass > 0:
            self.probabilities.append(np.array(chances) / mass)
        else:  # too little for a float64: the labels are told apart nevertheless
            best = np.array([max(float(z[np.searchsorted(tokens, t)]) for t in ids) for ids in labels])
            e = np.exp(best - best.max())
            self.probabilities.append(e / e.sum())
        self.masses.append(mass)

    @property
    def is_clear(self) -> bool:
        """Whether the last seed's options were nearly certain, so that others would say the same."""
        p = self.probabilities[-1]
        return -float(np.sum(p * np.log(np.where(p > 0, p, 1.0)))) <= CLEAR


def _seed(prompt: np.ndarray) -> int:
    """The seed of the noise: the same prompt always gets the same."""
    data = np.ascontiguousarray(prompt, "<i8").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _batches(reads: Sequence[Read], n_prefix: int, cache: KVCache) -> Iterator[list[Read]]:
    """The reads in groups that go through the network together.

    Raises:
        PromptError: one does not fit the context behind the state.
    """
    end = min(n_prefix + places_per_call(cache.rows_per_call), cache.context)
    batch: list[Read] = []
    position = n_prefix
    for read in reads:
        _check_room(read, n_prefix, cache.context, cache.rows_per_call)
        length = len(read.prompt) - n_prefix + len(read.canvas)
        if branch_start(position, length) + length > end:
            yield batch
            batch, position = [], n_prefix
        batch.append(read)
        position = branch_start(position, length) + length
    yield batch


def _check_room(read: Read, n_prefix: int, context: int, rows_per_call: int) -> None:
    """See that the rows of a read fit behind the state, with the places that are free before them.

    Raises:
        PromptError: they do not fit the context behind the state.
    """
    most = places_per_call(rows_per_call)
    room = min(most, context - n_prefix)
    length = len(read.prompt) - n_prefix + len(read.canvas)
    length += branch_start(n_prefix, length) - n_prefix
    if length > room:
        number = read.slots[0].question + 1
        what = f"question {number}" if len(read.slots) == 1 else f"the {len(read.slots)} questions together"
        raise PromptError(
            f"the state has {n_prefix} tokens and {what} with the answer {length}: that does not fit, as "
            + (
                f"the context has {context}; ask for a larger one (-c)"
                if room < most
                else f"what stands behind the state may have {room}; shorten it"
            )
        )


def _decisions(
    questions: Sequence[Question],
    reads: Sequence[Read],
    seen: "Sequence[Sequence[_Seen]]",
    n_prefix: int,
    found: int,
) -> list[Decision]:
    """Put together what was read of each question.

    Args:
        seen: of each read, of each slot.
        n_prefix: tokens of the state.
        found: of these, those that were in the KV cache; the first read encodes the others.
    """
    of: list[list[tuple[int, _Seen]]] = [[] for _ in questions]
    for number, (read, places) in enumerate(zip(reads, seen, strict=True)):
        for slot, place in zip(read.slots, places, strict=True):
            of[slot.question].append((number, place))
    decisions = []
    for question_number, (question, parts) in enumerate(zip(questions, of, strict=True)):
        p = np.mean([np.mean(place.probabilities, axis=0) for _, place in parts], axis=0)
        values = [option.value for option in question.options] or [True, False]
        best = int(p.argmax())
        mass = float(np.mean([np.mean(place.masses) for _, place in parts]))
        numbers = {number for number, _ in parts if reads[number].slots[0].question == question_number}
        first = 0 in numbers
        read = reads[parts[0][0]]
        where = next(each.place for each in read.slots if each.question == question_number)
        decisions.append(
            Decision(
                question=question,
                probabilities=dict(zip(values, p.tolist(), strict=True)),
                answer=values[best],
                confidence=float(p[best]) * mass,
                mass=mass,
                standard_error=_standard_error([place for _, place in parts], best),
                reads=sum(len(place.masses) for _, place in parts),
                prompt_tokens=sum(len(reads[number].prompt) for number in numbers),
                reused_tokens=n_prefix * len(numbers) - first * (n_prefix - found),
                kept_tokens=first * (n_prefix - found),
                canvas=tuple(read.canvas.tolist()),
                slot=where,
            )
        )
    return decisions


def _standard_error(places: Sequence[_Seen], option: int) -> float | None:
    """Of an option's mean probability over orders, from how it differs from seed to seed."""
    variances = []
    for place in places:
        chances = np.array([p[option] for p in place.probabilities])
        if len(chances) > 1:
            variances.append(float(chances.var(ddof=1)) / len(chances))
    return math.sqrt(sum(variances)) / len(places) if variances else None
