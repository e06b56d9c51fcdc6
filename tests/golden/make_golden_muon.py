#!/usr/bin/env python3
"""Writes muon.safetensors: steps of Muon in binary64, with the singular value decomposition's help.

The five steps of Newton-Schulz are a polynomial of odd degree in the matrix, so that they act on
its singular values alone: U diag(p(s)) Vᵀ. That is how they are computed here, without any of the
products that krait makes.

  python make_golden_muon.py
"""

import pathlib

import numpy as np
from safetensors.numpy import save_file

SHAPES = ((5, 9), (12, 7), (8, 8), (1, 6), (33, 20))
STEPS = 3
RATE, MOMENTUM, DECAY = 0.02, 0.95, 0.1
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonal(update):
    u, s, v = np.linalg.svd(update / np.linalg.norm(update), full_matrices=False)
    for _ in range(5):
        s = A * s + B * s**3 + C * s**5
    return u @ np.diag(s) @ v


def main():
    random = np.random.default_rng(7)
    tensors = {}
    for rows, cols in SHAPES:
        name = f"{rows}x{cols}"
        value = random.standard_normal((rows, cols)).astype(np.float32)
        gradients = random.standard_normal((STEPS, rows, cols)).astype(np.float32)
        tensors[f"{name}.value"] = value
        tensors[f"{name}.gradients"] = gradients
        value = value.astype(np.float64)
        momentum = np.zeros_like(value)
        for gradient in gradients.astype(np.float64):
            momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
            update = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
            value = value * (1 - RATE * DECAY)
            value -= RATE * 0.2 * np.sqrt(max(rows, cols)) * orthogonal(update)
        tensors[f"{name}.result"] = value.astype(np.float32)
        tensors[f"{name}.momentum"] = momentum.astype(np.float32)
    save_file(tensors, pathlib.Path(__file__).resolve().parent / "muon.safetensors")


if __name__ == "__main__":
    main()
