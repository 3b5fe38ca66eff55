"""Muon for matrices, AdamW for the rest."""

import torch
from torch import Tensor

_ADAM_BETAS = (0.9, 0.98)


def is_matrix(name: str) -> bool:
    """Whether Muon takes it: a product's weights, but neither the embedding nor the router."""
    return (name.endswith("proj.weight") and "router" not in name) or "experts" in name


@torch.no_grad()
def orthogonalized(stack: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards the nearest orthogonal matrices: (n, rows, columns).

    Source of the coefficients: K. Jordan et al., Muon, 2024.
    """
    x = stack.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-1, -2)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return (x.transpose(-1, -2) if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalized; matrices of one shape are computed together."""

    def __init__(self, matrices: dict[str, Tensor], lr: float, momentum: float, decay: float) -> None:
        self._halved = {id(p) for name, p in matrices.items() if name.endswith("gate_up_proj")}
        super().__init__(list(matrices.values()), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for p in group["params"]:
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.mul_(group["momentum"]).add_(p.grad)
            update = p.grad + group["momentum"] * momentum
            # A gate and an up matrix stand in one tensor and are two matrices.
            shape = (-1, p.shape[-2] // (2 if id(p) in self._halved else 1), p.shape[-1])
            views = update.view(shape), p.view(shape)
            by_shape.setdefault(views[0].shape[1:], []).append(views)
        for (rows, columns), pairs in by_shape.items():
            steps = orthogonalized(torch.cat([update for update, _ in pairs]))
            scale = max(1.0, rows / columns) ** 0.5
            for (_, p), step in zip(pairs, steps.split([len(u) for u, _ in pairs]), strict=True):
                p.mul_(1 - group["lr"] * group["decay"]).sub_(step, alpha=group["lr"] * scale)


def make_optimizers(named: dict[str, Tensor]) -> tuple[Muon, torch.optim.AdamW]:
    """Both, at learning rates of 1 that the schedule multiplies."""
    matrices = {name: p for name, p in named.items() if is_matrix(name)}
    others = [p for name, p in named.items() if not is_matrix(name)]
    muon = Muon(matrices, lr=1.0, momentum=0.95, decay=0.01)
    adam = torch.optim.AdamW(others, lr=1.0, betas=_ADAM_BETAS, weight_decay=0.0)
    return muon, adam
