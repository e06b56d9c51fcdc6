"""Writes state_dict.bin and views.bin: files of torch.save as small as they get.

Run with any PyTorch from 1.6 on. Floats are 0, 1, 2, … in memory order.
"""

import collections
import pathlib

import torch

here = pathlib.Path(__file__).parent


def count(*shape, dtype=torch.float32):
    size = 1
    for extent in shape:
        size *= extent
    return torch.arange(size, dtype=dtype).reshape(shape)


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.as_f16 = torch.nn.Parameter(count(4).half())
        self.as_bf16 = torch.nn.Parameter(count(4).bfloat16())
        self.register_buffer("steps", torch.tensor(7))
        with torch.no_grad():
            self.linear.weight.copy_(count(2, 3))
            self.linear.bias.copy_(count(2))


torch.save(Module().state_dict(), here / "state_dict.bin")

whole = count(3, 4)
torch.save(
    collections.OrderedDict(
        whole=whole,
        tied=torch.nn.Parameter(whole),
        tail=whole[2],
        transposed=whole.t(),
        scalar=torch.tensor(2.0),
        empty=torch.zeros(0, 3),
    ),
    here / "views.bin",
)
