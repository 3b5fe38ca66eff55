"""Typed questions about a text, answered with probabilities in one denoising step: nothing is generated."""
