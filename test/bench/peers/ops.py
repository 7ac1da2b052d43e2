"""Single operations in PyTorch on the CPU. One argument, JSON: op, threads, repetitions and the op's sizes.

adam: one fused AdamW step over `count` parameters; adam_copy: then their copy in bf16. attention, attention_training: causal attention from a packed projection
[batch, seq, 3 * heads * size] to [batch, seq, heads * size], forward alone or with its backward, in `dtype` (f32, bf16).
Prints one line of JSON for each repetition after two that warm up: {"seconds": s}.
"""
import json
import sys
import time

import torch
from torch.nn import functional as F


def updating(parameter):
    parameter.grad = torch.randn_like(parameter)
    return torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.1, fused=True).step


def adam(count, **_):
    return updating(torch.randn(count, requires_grad=True))


def adam_copy(count, **_):
    parameter = torch.randn(count, requires_grad=True)
    step = updating(parameter)
    copy = torch.empty(count, dtype=torch.bfloat16)

    def both():
        step()
        with torch.no_grad():
            copy.copy_(parameter)

    return both


def noise(dtype, *shape, **options):
    return torch.randn(*shape, dtype={"f32": torch.float32, "bf16": torch.bfloat16}[dtype], **options)


def mixed(qkv, heads):
    rows, length, width = qkv.shape
    q, k, v = (part.transpose(1, 2) for part in qkv.view(rows, length, 3, heads, width // 3 // heads).unbind(2))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows, length, width // 3)


def attention(dtype, batch, seq, heads, size, **_):
    qkv = noise(dtype, batch, seq, 3 * heads * size)

    def forward():
        with torch.no_grad():
            mixed(qkv, heads)

    return forward


def attention_training(dtype, batch, seq, heads, size, **_):
    qkv = noise(dtype, batch, seq, 3 * heads * size, requires_grad=True)
    gradient = noise(dtype, batch, seq, heads * size)

    def both():
        qkv.grad = None
        mixed(qkv, heads).backward(gradient)

    return both


def main(request):
    torch.set_num_threads(request["threads"])
    call = {"adam": adam, "adam_copy": adam_copy, "attention": attention, "attention_training": attention_training}[request["op"]](**request)
    for i in range(request["repetitions"] + 2):
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        if i >= 2:
            print(json.dumps({"seconds": seconds}), flush=True)


main(json.loads(sys.argv[1]))
