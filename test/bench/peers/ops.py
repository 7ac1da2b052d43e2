"""Single operations in PyTorch on the CPU. One argument, JSON: op, threads, repetitions and the op's sizes.

adam: one fused AdamW step over `count` parameters. attention, attention_training: causal attention from a packed projection
[batch, seq, 3 * heads * size] to [batch, seq, heads * size], forward alone or with its backward.
Prints one line of JSON for each repetition after two that warm up: {"seconds": s}.
"""
import json
import sys
import time

import torch
from torch.nn import functional as F


def adam(count, **_):
    parameter = torch.randn(count, requires_grad=True)
    parameter.grad = torch.randn(count)
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.1, fused=True)
    return optimizer.step


def mixed(qkv, heads):
    rows, length, width = qkv.shape
    q, k, v = (part.transpose(1, 2) for part in qkv.view(rows, length, 3, heads, width // 3 // heads).unbind(2))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows, length, width // 3)


def attention(batch, seq, heads, size, **_):
    qkv = torch.randn(batch, seq, 3 * heads * size)

    def forward():
        with torch.no_grad():
            mixed(qkv, heads)

    return forward


def attention_training(batch, seq, heads, size, **_):
    qkv = torch.randn(batch, seq, 3 * heads * size, requires_grad=True)
    gradient = torch.randn(batch, seq, heads * size)

    def both():
        qkv.grad = None
        mixed(qkv, heads).backward(gradient)

    return both


def main(request):
    torch.set_num_threads(request["threads"])
    call = {"adam": adam, "attention": attention, "attention_training": attention_training}[request["op"]](**request)
    for i in range(request["repetitions"] + 2):
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        if i >= 2:
            print(json.dumps({"seconds": seconds}), flush=True)


main(json.loads(sys.argv[1]))
