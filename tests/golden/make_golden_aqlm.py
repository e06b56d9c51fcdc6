"""Additively quantised matrices and what the `aqlm` package makes of them in float32.

    AQ_USE_JIT=0 python tests/golden/make_golden_aqlm.py

Writes aqlm.safetensors: for each scheme, codes as the package packs them, scales, and the weights
that its own function gives. Codebooks are not stored, since those of 16 bits are large: their numbers
follow from their places (`codebook_number`), which the test computes too.

Made with aqlm 1.1.7, torch 2.14.1 (CPU), numpy 2.4.6, safetensors 0.8.0.
"""

import pathlib

import numpy as np
import torch
from aqlm.utils import _dequantize_weight, pack_int_data, unpack_int_data
from safetensors.torch import save_file

OUT = 12
IN = 96

# name: codebooks, bits, in group, out group
SCHEMES = {
    "1x8g8": (1, 8, 8, 1),
    "2x8g8": (2, 8, 8, 1),
    "8x8g32": (8, 8, 32, 1),
    "4x8g16": (4, 8, 16, 1),
    "1x16g8": (1, 16, 8, 1),
    "1x12g8": (1, 12, 8, 1),
    "4x4g8": (4, 4, 8, 1),
    "8x4g16": (8, 4, 16, 1),
    "2x8g8h2": (2, 8, 8, 2),
    "3x4g4h3": (3, 4, 4, 3),
}


def codebook_numbers(count):
    """Numbers of f16, some of them -0."""
    at = np.arange(count, dtype=np.uint64)
    mixed = (at * 2654435761 + 97) % 2**32
    whole = ((mixed >> 16) & 0x7FFF).astype(np.int64) - 16384
    numbers = (whole.astype(np.float32) / np.float32(4096)).astype(np.float16)
    numbers[at % 29 == 0] = np.float16(-0.0)
    return numbers


def main():
    tensors = {}
    for seed, (name, (books, bits, in_group, out_group)) in enumerate(SCHEMES.items()):
        random = np.random.default_rng(seed)
        codewords = 2**bits
        codes = random.integers(0, codewords, (OUT // out_group, IN // in_group, books))
        codes.reshape(-1)[:3] = [codewords - 1, 0, codewords // 2]
        numbers = codebook_numbers(books * codewords * out_group * in_group)
        codebooks = torch.from_numpy(numbers).reshape(books, codewords, out_group, in_group)
        scales = torch.from_numpy(
            random.uniform(-2, 2, (OUT // out_group, 1, 1, 1)).astype(np.float16)
        )
        packed = pack_int_data(torch.from_numpy(codes), bits)
        weight = _dequantize_weight(unpack_int_data(packed, bits), codebooks.float(), scales.float())
        tensors[f"{name}.codes"] = packed.contiguous()
        tensors[f"{name}.scales"] = scales
        tensors[f"{name}.weight"] = weight.contiguous()
    save_file(tensors, pathlib.Path(__file__).parent / "aqlm.safetensors")


if __name__ == "__main__":
    main()
