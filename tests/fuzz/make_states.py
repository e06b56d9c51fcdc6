"""Writes the seeds of fuzz_state: state files of the tests' tiny model. The target puts the
fingerprint and the checksum right. Usage: make_states.py FOLDER"""

import json
import math
import pathlib
import struct
import sys

SHAPES = {
    "layers.0.mixer.conv_state": [3, 40],
    "layers.0.mixer.ssm_state": [3, 5, 16],
    "layers.1.mixer.conv_state": [3, 40],
    "layers.1.mixer.ssm_state": [3, 5, 16],
}


def write(path, tokens, fill=lambda i: math.sin(i) / 8, **changes):
    metadata = {"format": "krait-state", "format_version": "2", "krait_version": "0.1.0",
                "model": "0" * 16, "position": str(max(0, len(tokens) - 1)),
                "pending": str(min(1, len(tokens))), "unshown": "0", "checksum": "0" * 16}
    metadata.update({key: str(value) for key, value in changes.items()})
    header, data = {"__metadata__": metadata}, b""
    for name, shape in SHAPES.items():
        part = struct.pack(f"<{math.prod(shape)}f", *map(fill, range(math.prod(shape))))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    part = struct.pack(f"<{len(tokens)}i", *tokens)
    header["tokens"] = {"dtype": "I32", "shape": [len(tokens)],
                        "data_offsets": [len(data), len(data) + len(part)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data + part)


folder = pathlib.Path(sys.argv[1])
write(folder / "text.safetensors", [1, 2, 3, 60, 63])
write(folder / "nothing.safetensors", [])
write(folder / "unshown.safetensors", [1, 2, 3, 1, 1], pending=3, position=2, unshown=2)
write(folder / "unshown_all.safetensors", [1, 2, 1], pending=1, position=2, unshown=2**48)
write(folder / "last_position.safetensors", [1], position=2**48)
write(folder / "beyond.safetensors", [1], position=2**63 - 1)
write(folder / "nan.safetensors", [1, 2], fill=lambda i: math.nan if i == 7 else 0.5)
write(folder / "huge.safetensors", [1, 2], fill=lambda i: 3e38)
write(folder / "old.safetensors", [1, 2], format_version="1")
write(folder / "controls.safetensors", [1, 2], position="\x1b[31m\r\n")
