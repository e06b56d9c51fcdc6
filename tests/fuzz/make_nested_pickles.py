"""Writes the corpus of fuzz_pickle for state dictionaries within dictionaries, byte by byte.

Needs Python alone. Each file is the pickle of an archive whose storages "0" and "1" have 64 bytes:
pickle_nested has its tensors under "model", beside a number; pickle_nested_twice has such an entry
twice; pickle_nested_deep one within another.
"""

import pathlib
import struct

here = pathlib.Path(__file__).parent / "corpus" / "pickle"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def numbers(*values):
    return b"(" + b"".join(b"K" + bytes([value]) for value in values) + b"t"


def tensor(key, count, shape, strides):
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n"
        + text(key) + text("cpu") + b"K" + bytes([count]) + b"tQK\0" + numbers(*shape)
        + numbers(*strides) + b"\x89ccollections\nOrderedDict\n)RtR")


def dictionary(*items):
    return b"}(" + b"".join(text(name) + value for name, value in items) + b"u"


weights = dictionary(("a.weight", tensor("0", 16, (4, 4), (4, 1))),
                     ("a.bias", tensor("1", 4, (4,), (1,))))
step = ("step", b"K\x07")
files = {
    "nested": dictionary(step, ("model", weights)),
    "nested_twice": dictionary(("model", weights), ("model", weights)),
    "nested_deep": dictionary(("model", dictionary(("model", weights))), step),
}
for name, pickle in files.items():
    (here / f"pickle_{name}").write_bytes(b"\x80\x02" + pickle + b".")
