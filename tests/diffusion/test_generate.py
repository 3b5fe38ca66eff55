"""The loop's own decisions, on a scripted network: what is committed, when it ends, what is encoded."""

from types import SimpleNamespace

import numpy as np
import pytest

from dgguf.backends.base import Prediction
from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, DenoisingStep, Finished, PromptEncoded
from dgguf.diffusion.generate import generate
from dgguf.diffusion.sampler import SeededNoise
from dgguf.diffusion.settings import SamplerSettings
from dgguf.diffusion.statistics import Statistics
from dgguf.errors import NumericsError, PromptError

C, V = 4, 50
STOP = 7


class ScriptedNetwork:
    """Predicts the canvases of a script, one a step, and notes what it is asked.

    Args:
        script: of each step, (argmax ids, sampled ids, entropies).
    """

    def __init__(self, *script):
        self.config = SimpleNamespace(canvas_length=C, context_length=1000)
        self._script = iter(script)
        self.encoded, self.canvases, self.conditions, self.temperatures = [], [], [], []

    def encode(self, tokens, cache, spans=()):
        self.encoded.append(tokens.tolist())
        cache.position += len(tokens)

    def denoise(self, canvas, cache, previous, temperature, uniforms, rows=None):
        assert rows is None
        self.canvases.append(canvas.tokens.tolist())
        self.conditions.append(previous and previous.conditioning)
        self.temperatures.append(temperature)
        argmax, sampled, entropy = next(self._script)
        return Prediction(
            np.array(argmax), np.array(sampled), np.array(entropy, np.float32), len(self.canvases)
        )


def cache(context=100, position=0, rows_per_call=6):
    return SimpleNamespace(context=context, position=position, rows_per_call=rows_per_call)


def run(
    network,
    prompt=(1, 2, 3),
    store=None,
    max_tokens=C,
    canvas_length=None,
    pins=None,
    committed=(),
    **settings,
):
    return list(
        generate(
            network,
            store or cache(),
            np.array(prompt),
            settings=SamplerSettings(**settings),
            noise=SeededNoise(1, V),
            max_tokens=max_tokens,
            stop_ids=frozenset({STOP}),
            canvas_length=canvas_length,
            pins=pins,
            committed=committed,
        )
    )


def settled(*ids):
    """Two steps that agree and are sure."""
    return [(ids, ids, [0] * C)] * 2


def only(events, kind):
    return [event for event in events if isinstance(event, kind)]


def test_a_canvas_that_settles():
    network = ScriptedNetwork(*settled(4, 5, 6, 8))
    events = run(network)
    assert [type(event) for event in events] == [
        PromptEncoded,
        CanvasStarted,
        DenoisingStep,
        DenoisingStep,
        CanvasCommitted,
        Finished,
    ]
    assert [event.settled for event in only(events, DenoisingStep)] == [False, True]
    (committed,) = only(events, CanvasCommitted)
    assert committed.tokens.tolist() == [4, 5, 6, 8]
    assert (committed.steps, committed.converged, committed.stopped, committed.answer_length) == (
        2,
        True,
        False,
        C,
    )
    assert (events[-1].reason, events[-1].answer_tokens) == ("length", C)


def test_the_argmax_is_committed_not_the_sample():
    network = ScriptedNetwork(([1, 1, 1, 1], [9, 9, 9, 9], [0] * C), ([2, 2, 2, 2], [9, 9, 9, 9], [0] * C))
    (committed,) = only(run(network, max_steps=2), CanvasCommitted)
    assert committed.tokens.tolist() == [2, 2, 2, 2]
    assert not committed.converged


def test_accepted_samples_stay_and_the_rest_becomes_noise():
    network = ScriptedNetwork(([1, 1, 1, 1], [2, 3, 4, 5], [0, 9, 0, 9]), *settled(1, 1, 1, 1))
    events = run(network, max_steps=2)
    first = only(events, DenoisingStep)[0]
    assert first.accepted.tolist() == [True, True, True, False]  # the first unsure one is free
    noise = SeededNoise(1, V)
    assert network.canvases[0] == noise.tokens(0, 0, C).tolist()
    assert network.canvases[1] == [2, 3, 4, noise.tokens(0, 1, C)[3]]


def test_a_prediction_conditions_the_next_step_but_not_the_next_canvas():
    network = ScriptedNetwork(*settled(1, 1, 1, 1), *settled(2, 2, 2, 2))
    run(network, max_tokens=2 * C)
    assert network.conditions == [None, 1, None, 3]


def test_temperature_follows_the_schedule():
    network = ScriptedNetwork(*[([i] * C, [i] * C, [9] * C) for i in range(4)])
    run(network, max_steps=4, t_min=0.4, t_max=0.8)
    np.testing.assert_allclose(network.temperatures, [0.8, 0.7, 0.6, 0.5])


def test_the_prompt_is_encoded_in_chunks_and_each_canvas_before_the_next():
    network = ScriptedNetwork(*settled(1, 1, 1, 1), *settled(2, 2, 2, 2))
    store = cache(rows_per_call=5)
    events = run(network, prompt=range(10, 22), store=store, max_tokens=C + 1)
    assert network.encoded == [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19], [20, 21], [1, 1, 1, 1]]
    assert [(event.done, event.total) for event in only(events, PromptEncoded)] == [
        (5, 12),
        (10, 12),
        (12, 12),
    ]
    assert store.position == 16  # the last canvas is not encoded: nobody asked on


def test_what_the_cache_holds_already_is_not_encoded_again():
    network = ScriptedNetwork(*settled(1, 1, 1, 1))
    events = run(network, prompt=range(8), store=cache(position=5))
    assert network.encoded == [[5, 6, 7]]
    assert (events[0].done, events[0].reused) == (8, 5)
    network = ScriptedNetwork(*settled(1, 1, 1, 1))
    events = run(network, prompt=range(8), store=cache(position=8))
    assert network.encoded == []
    assert (events[0].done, events[0].total, events[0].reused) == (8, 8, 8)


def test_the_first_stop_id_ends_the_answer():
    network = ScriptedNetwork(*settled(1, 2, 3, 4), *settled(5, STOP, 6, STOP))
    events = run(network, max_tokens=10 * C)
    last = only(events, CanvasCommitted)[-1]
    assert (last.answer_length, last.stopped) == (1, True)
    assert (events[-1].reason, events[-1].answer_tokens) == ("stop", C + 1)


def test_repetition_is_no_reason_to_stop():
    network = ScriptedNetwork(*settled(1, 1, 1, 1), *settled(1, 1, 1, 1))
    assert len(only(run(network, max_tokens=2 * C), CanvasCommitted)) == 2


def test_a_full_context_ends_the_answer():
    network = ScriptedNetwork(*settled(1, 1, 1, 1), *settled(1, 1, 1, 1))
    events = run(network, store=cache(context=3 + C + C), max_tokens=100)
    assert (events[-1].reason, events[-1].answer_tokens) == ("context", 2 * C)


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(PromptError, match=r"6 tokens.*up to 1000 \(-c\)"):
        run(ScriptedNetwork(), prompt=range(6), store=cache(context=C + 5))
    with pytest.raises(PromptError, match="shorten it"):
        run(ScriptedNetwork(), prompt=range(1000), store=cache(context=1000))


def test_closing_the_iterator_cancels():
    network = ScriptedNetwork(*settled(1, 1, 1, 1))
    events = generate(
        network, cache(), np.array([1]), settings=SamplerSettings(), noise=SeededNoise(1, V), max_tokens=99,
        stop_ids=frozenset(),
    )  # fmt: skip
    next(events), next(events), next(events)
    events.close()
    assert len(network.canvases) == 1


def test_an_error_passes_through():
    class Broken(ScriptedNetwork):
        def denoise(self, *_):
            raise NumericsError("not finite")

    with pytest.raises(NumericsError):
        run(Broken())


def test_statistics_add_up():
    network = ScriptedNetwork(*settled(1, 2, 3, 4), ([5] * C, [5] * C, [9] * C), *settled(6, STOP, 6, 6))
    statistics = Statistics()
    for event in run(network, max_tokens=9 * C, max_steps=3):
        statistics.add(event)
    assert statistics.steps == [2, 3]
    assert statistics.converged == [True, True]
    assert (statistics.prompt_tokens, statistics.answer_tokens, statistics.canvas_positions) == (
        3,
        C + 1,
        2 * C,
    )
    assert statistics.reason == "stop"
    assert statistics.tokens_per_step == (C + 1) / 5
    assert 0 < statistics.first_block_seconds < statistics.seconds
    assert statistics.answer_tokens_per_second == (C + 1) / statistics.seconds


def test_pins_stand_in_every_canvas_and_are_committed():
    """They are as certain as can be before anything is accepted: or they would be thrown back into noise."""
    unsure = ([1, 1, 1, 1], [2, 2, 2, 2], [5, 5, 5, 5])
    network = ScriptedNetwork(unsure, unsure, *settled(1, 1, 1, 1))
    events = run(network, max_tokens=2 * C, max_steps=2, pins={2: 30, 4: 31})
    noise = SeededNoise(1, V)
    free = [0, 1, 3]
    assert [canvas[2] for canvas in network.canvases[:2]] == [30, 30]
    assert np.array(network.canvases[0])[free].tolist() == noise.tokens(0, 0, C)[free].tolist()
    first = only(events, DenoisingStep)[0]
    assert (first.tokens[2], first.entropy[2], first.accepted[2]) == (30, 0, True)
    assert [canvas[0] for canvas in network.canvases[2:]] == [31, 31]
    committed = [event.tokens.tolist() for event in only(events, CanvasCommitted)]
    assert committed == [[1, 1, 30, 1], [31, 1, 1, 1]]


def test_pins_count_neither_for_nor_against_stopping():
    sure_where_pinned = ([1, 1, 1, 1], [1, 1, 1, 1], [0.0, 0.012, 0.012, 0.0])
    steps = []
    for pins in (None, {0: 1, 3: 1}, dict.fromkeys(range(4), 9)):
        network = ScriptedNetwork(*[sure_where_pinned] * 3)
        events = run(network, max_steps=3, confidence_threshold=0.01, pins=pins)
        steps.append(only(events, CanvasCommitted)[0].steps)
    assert steps == [2, 3, 2]  # their mean entropy is 0.006; that of the free ones 0.012; none is free


def test_no_pins_change_nothing():
    def canvases(pins):
        network = ScriptedNetwork(([1, 2, 3, 4], [5, 6, 7, 8], [0, 1, 0, 2]), *settled(1, 2, 3, 4))
        run(network, max_steps=3, pins=pins)
        return network.canvases

    assert canvases({}) == canvases(None) == canvases({C: 3})  # a pin of a canvas that never comes


@pytest.mark.parametrize(
    ("pins", "length", "reason"),
    [
        (None, 1, "stop"),
        ({0: 5}, 1, "stop"),
        ({1: STOP}, 1, "stop"),
        ({2: 5}, 3, "stop"),  # the stop id in front of it is a hole's filler
        ({C - 1: STOP}, C - 1, "stop"),
        ({C: 5}, C, "length"),
    ],
)
def test_an_answer_goes_on_to_its_last_pin(pins, length, reason):
    if pins and C - 1 in pins:
        script = settled(4, STOP, 6, 7)
    else:
        script = settled(4, STOP, 6, STOP)
    events = run(ScriptedNetwork(*script), max_tokens=C, pins=pins)
    (committed,) = only(events, CanvasCommitted)
    assert (committed.answer_length, events[-1].reason, events[-1].answer_tokens) == (length, reason, length)


def test_events_say_what_is_pinned():
    network = ScriptedNetwork(*settled(1, 1, 1, 1), *settled(2, 2, 2, 2))
    events = run(network, max_tokens=2 * C, pins={1: 5})
    masks = [event.pinned for event in events if isinstance(event, CanvasStarted | DenoisingStep)]
    assert [mask is not None and mask.tolist() for mask in masks] == [[False, True, False, False]] * 3 + [
        False
    ] * 3
    assert not masks[0].flags.writeable
    assert only(run(ScriptedNetwork(*settled(1, 1, 1, 1))), DenoisingStep)[0].pinned is None


def test_an_answer_goes_on_behind_committed_canvases():
    script = [*settled(4, 5, 6, 8), *settled(8, 9, 10, STOP)]
    whole = run(ScriptedNetwork(*script), max_tokens=2 * C)
    network = ScriptedNetwork(*script[2:])
    events = run(network, max_tokens=2 * C, committed=[np.array([4, 5, 6, 8])])
    assert network.encoded == [[1, 2, 3, 4, 5, 6], [8]]
    started, last = only(whole, CanvasStarted)[1], only(events, CanvasStarted)[0]
    assert (last.block, last.committed, last.canvas.tolist()) == (1, 3 + C, started.canvas.tolist())
    assert only(events, PromptEncoded)[-1].total == 3 + C
    assert events[-1].answer_tokens == whole[-1].answer_tokens == 2 * C - 1


@pytest.mark.parametrize(("length", "blocks"), [(1, 8), (3, 3), (4, 2)])
def test_canvases_of_any_length(length, blocks):
    script = [([i] * length, [i] * length, [0] * length) for i in range(10, 10 + blocks) for _ in range(2)]
    events = run(ScriptedNetwork(*script), max_tokens=8, canvas_length=length)
    committed = only(events, CanvasCommitted)
    assert [event.tokens.tolist() for event in committed] == [[10 + i] * length for i in range(blocks)]
    assert events[-1].answer_tokens == blocks * length


def test_canvases_longer_than_the_models_are_refused():
    for length in (0, C + 1):
        with pytest.raises(PromptError, match=f"a canvas of {length} positions"):
            run(ScriptedNetwork(), canvas_length=length)
