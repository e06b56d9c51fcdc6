#!/usr/bin/env python3
"""Makes a checkpoint with the function of a small one and the bytes of a large one.

    python3 bench/widen.py examples/models/krait-bytes-2m /tmp/wide --layers 35

Every width (d_model, d_inner, dt_rank, d_expert) becomes `--times` as large, by zeros behind the
weights that are there, and copies of the layers, whose output projections are zero, come behind
them. So the residual stream has the old values and zeros, and what is read and multiplied is a
large model. RMSNorm divides by the mean over `times` as many numbers; its weights become
sqrt(1 / times) as large and its epsilon 1 / times as large, which for 4 or 16 is exact.

Mamba and MoE-Mamba checkpoints with one safetensors file.
"""
import argparse
import json
import math
import pathlib
import struct

import numpy as np

TYPES = {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32}


def read(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = (entry["dtype"], array)
    return tensors


def write(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


def pad(array, times, axes):
    """`times` as long along the axes, zeros behind."""
    return np.pad(array, [(0, n * (times - 1) if axis in axes else 0)
                          for axis, n in enumerate(array.shape)])


def widened(name, array, times, dt_rank):
    stem = name.split(".")[-2] if name.endswith((".weight", ".bias")) else name.split(".")[-1]
    if stem in ("embedding", "embeddings", "router"):
        return pad(array, times, [1])
    if stem in ("norm", "norm2", "norm_f"):
        return pad(array * np.float32(math.sqrt(1 / times)), times, [0])
    if stem in ("conv1d", "D", "A_log") or name.endswith("dt_proj.bias"):
        return pad(array, times, [0])
    if stem == "in_proj":  # x and z
        return np.concatenate([pad(half, times, [0, 1]) for half in np.split(array, 2)])
    if stem == "x_proj":  # dt, then B and C
        return np.concatenate([pad(array[:dt_rank], times, [0, 1]),
                               pad(array[dt_rank:], times, [1])])
    if stem in ("dt_proj", "out_proj"):
        return pad(array, times, [0, 1])
    if stem in ("up_proj", "down_proj"):
        return pad(array, times, [1, 2])
    raise SystemExit(f"widen.py: expected a tensor of a Mamba or MoE-Mamba model, found {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("destination", type=pathlib.Path)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--times", type=int, default=4)
    options = parser.parse_args()

    config = json.loads((options.source / "config.json").read_text())
    tensors = read(options.source / "model.safetensors")
    layer_key = "num_hidden_layers" if "num_hidden_layers" in config else "n_layer"
    layers = config[layer_key]
    dt_rank = next(array.shape[1] for name, (_, array) in tensors.items()
                   if name.endswith("dt_proj.weight"))
    wide = {name: (dtype, widened(name, array, options.times, dt_rank))
            for name, (dtype, array) in tensors.items()}
    result = {}
    for name, (dtype, array) in wide.items():
        if ".layers." not in name:
            result[name] = (dtype, array)
    for layer in range(options.layers):
        prefix = f"backbone.layers.{layer % layers}."
        for name, (dtype, array) in wide.items():
            if not name.startswith(prefix):
                continue
            is_output = name.endswith(("out_proj.weight", "down_proj.weight"))
            if layer >= layers and is_output:
                array = np.zeros_like(array)
            result[f"backbone.layers.{layer}." + name[len(prefix):]] = (dtype, array)

    config[layer_key] = options.layers
    for key in ("hidden_size", "d_model", "intermediate_size", "time_step_rank"):
        if key in config:
            config[key] *= options.times
    if "moe_cfg" in config:
        config["moe_cfg"]["d_expert"] *= options.times
    epsilon = "layer_norm_epsilon" if "layer_norm_epsilon" in config else "norm_epsilon"
    config[epsilon] = config.get(epsilon, 1e-5) / options.times
    options.destination.mkdir(parents=True, exist_ok=True)
    (options.destination / "config.json").write_text(json.dumps(config, indent=1))
    write(options.destination / "model.safetensors", result)


if __name__ == "__main__":
    main()
