"""Canvases as the sampler's next steps find them: with what the network itself took for sure.

A canvas that holds right tokens and noise alone teaches a network to trust whatever is no noise. In use it
meets its own mistakes, and must take them back: a word twice, a digit too many. So some rows are denoised
once, and what comes of it is the canvas to learn from (N. Savinov et al., Step-unrolled Denoising
Autoencoders, 2022). Only of prompts with one right answer: where many are, a token of another one that the
network took is none to take back.
"""

import torch
from torch import Tensor

# Nats that are accepted, of a row each: the sampler's 0.1 makes few mistakes in a step, but takes many steps.
BOUNDS = 0.1, 10.0


def accepted(entropy: Tensor, is_open: Tensor, bounds: Tensor) -> Tensor:
    """The sampler's rule for each row, (B, C) bool, by the entropies of its open positions; bounds (B, 1)."""
    entropy = torch.where(is_open, entropy, 0.0)
    in_order, order = entropy.sort(dim=-1, stable=True)
    others = in_order.cumsum(-1) - in_order
    return torch.zeros_like(is_open).scatter(-1, order, others <= bounds)


def unrolled(
    logits: Tensor, temperature: Tensor, canvas: Tensor, is_open: Tensor, generator: torch.Generator
) -> Tensor:
    """The canvases (B, C) after a step of the sampler: sampled tokens where it is sure, else noise.

    Args:
        logits: (B, C, V) of `canvas`.
        temperature: (B, 1, 1).
        canvas: ids (B, C); what is not open stays.
        is_open: (B, C) bool.
        generator: of the CPU.
    """
    log_p = (logits / temperature).log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1)
    up_to = p.cumsum(-1)
    share = torch.rand(*canvas.shape, 1, generator=generator).to(p.device) * up_to[..., -1:]
    sampled = torch.searchsorted(up_to, share).squeeze(-1).clamp(max=p.shape[-1] - 1)
    noise = torch.randint(logits.shape[-1], canvas.shape, generator=generator).to(canvas.device)
    least, most = BOUNDS
    bounds = least * (most / least) ** torch.rand(len(canvas), 1, generator=generator).to(p.device)
    kept = accepted(entropy, is_open, bounds)
    return torch.where(is_open, torch.where(kept, sampled, noise), canvas)
