"""A state of a smaller network as one of a deeper network that computes the same.

Each layer that comes in between is a copy of the one before it whose two outputs are multiplied by 0. It
gives nothing to the stream until the training lets it, and then what a second pass of that layer would.
"""

from typing import Any

import torch

from tools.demo.optimizer import is_matrix

_OUTPUTS = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")


def n_layers(state: dict[str, Any]) -> int:
    """Layers of a state's network."""
    return 1 + max(int(name.split(".")[1]) for name in _dotted(state["twin"]) if name.startswith("layers."))


def grown(state: dict[str, Any], wanted: int) -> dict[str, Any]:
    """A trainer's state (`Trainer.state`, or packed) with `wanted` layers; the last stays the last."""
    sources = _sources(n_layers(state), wanted)
    old = _dotted(state["twin"])
    names = {name: (name, False) for name in old if not name.startswith("layers.")}
    for i, (source, is_new) in enumerate(sources):
        prefix = f"layers.{source}."
        for name in old:
            if name.startswith(prefix):
                names[f"layers.{i}.{name.removeprefix(prefix)}"] = name, is_new
    new = dict(state)
    new["twin"] = {
        f"tensors.{name.replace('.', '/')}": _value(
            state["twin"][f"tensors.{source.replace('.', '/')}"], name, is_new
        )
        for name, (source, is_new) in names.items()
    }
    if "average" in state:
        new["average"] = {
            name: _value(state["average"][source], name, is_new) for name, (source, is_new) in names.items()
        }
    new["optimizers"] = [
        _optimizer(values, [name for name in old if of_muon == is_matrix(name)], names, of_muon)
        for values, of_muon in zip(state["optimizers"], (True, False), strict=True)
    ]
    return new


def _dotted(tensors: dict[str, Any]) -> list[str]:
    return [name.removeprefix("tensors.").replace("/", ".") for name in tensors]


def _sources(have: int, wanted: int) -> list[tuple[int, bool]]:
    """For each layer the one it comes from, and whether it is a copy; these are spread evenly."""
    sources = [(i, False) for i in range(have)]
    for copy in reversed(range(wanted - have)):
        at = (copy + 1) * (have - 1) // (wanted - have + 1)
        sources.insert(at + 1, (at, True))
    return sources


def _value(value: torch.Tensor, name: str, is_new: bool) -> torch.Tensor:
    if not is_new:
        return value
    if name.endswith(_OUTPUTS):
        return torch.zeros_like(value)
    return torch.ones_like(value) if name.endswith("scalar") else value.clone()


def _optimizer(
    values: dict[str, Any], old: list[str], names: dict[str, tuple[str, bool]], of_muon: bool
) -> dict[str, Any]:
    """An optimizer's state, in which copied layers have none."""
    places = {name: i for i, name in enumerate(old)}
    in_order = sorted(names, key=lambda name: name.replace(".", "/"))  # as torch keeps parameters
    new = [name for name in in_order if of_muon == is_matrix(name)]
    state = {}
    for i, name in enumerate(new):
        source, is_new = names[name]
        if not is_new and places[source] in values["state"]:
            state[i] = values["state"][places[source]]
    (group,) = values["param_groups"]
    return {"state": state, "param_groups": [{**group, "params": [*range(len(new))]}]}
