"""Writes gguf_blocks.safetensors: blocks of every GGUF format that krait reads, of random bytes and of
the smallest and largest codes, with their values by the `gguf` package.

    pip install gguf safetensors numpy
    python tests/golden/gguf_blocks.py
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
           "IQ4_XS", "MXFP4"]
# Byte places of the f16 scales of a block.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
          "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
          "MXFP4": []}
# Zero, the smallest subnormal, the smallest and the largest normal number, and negative ones.
EDGES = np.array([0x0000, 0x0001, 0x03FF, 0x0400, 0x7BFF, 0x8000, 0x8001, 0xFBFF], np.uint16)


def blocks_of(name, random):
    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    n = 8 if elements == 256 else 32
    blocks = random.integers(0, 256, (n, size), np.uint8)
    blocks[1, :] = 0x00
    blocks[2, :] = 0xFF
    blocks[3, :] = 0x80
    blocks[4, :] = 0x7F
    for place in SCALES[name]:
        scales = random.normal(0, 0.02, n).astype(np.float16).view(np.uint16)
        scales[-len(EDGES):] = random.permutation(EDGES)
        blocks[:, place:place + 2] = scales[:, None].view(np.uint8).reshape(n, 2)
    return blocks


def main():
    random = np.random.default_rng(17)
    tensors = {}
    for name in FORMATS:
        blocks = blocks_of(name, random)
        with np.errstate(all="ignore"):
            values = dequantize(blocks, GGMLQuantizationType[name]).astype(np.float32)
        tensors[name.lower() + ".blocks"] = blocks
        tensors[name.lower() + ".values"] = values
    save_file(tensors, Path(__file__).resolve().parent / "gguf_blocks.safetensors")


main()
