"""Times PyTorch's scaled_dot_product_attention on a GPU: causal, bf16, heads of 64 and 128, by backend, forward and backward.

One argument, JSON: tokens (of all rows together), width (heads x size). Prints a line of JSON for each: {"kernel", "backend", "ms", "tflops",
"chosen"}, the last the name of autograd's node, which tells what PyTorch picked (FlashAttention-2 where it does not find its own cuDNN).
The backends: default (what PyTorch picks for q, k and v in tensors of their own), packed (the same for parts of one tensor, as a model's
projection makes them), flash (FlashAttention-2), deterministic (default under deterministic algorithms).
"""
import json
import statistics
import sys

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def milliseconds(run, repetitions=3, calls=10):
    """Of one call, of several that follow each other without a wait: the host's part does not count."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repetitions):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / calls)
    return statistics.median(times)


def measure(name, backend, size, length, tokens, width):
    heads, rows = width // size, tokens // length
    parts = torch.randn(rows, length, 3, heads, size, device="cuda", dtype=torch.bfloat16).permute(2, 0, 3, 1, 4)
    q, k, v = (part.detach().requires_grad_() for part in (parts if name == "packed" else parts.contiguous()))
    gradient = torch.randn(rows, heads, length, size, device="cuda", dtype=torch.bfloat16)

    def forward():
        with torch.no_grad():
            F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def measured():
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        for kind, run in (
            ("forward", forward),
            ("backward", lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)),
        ):
            kernel = f"attention, head {size}, T {length}, {kind}"
            ms = milliseconds(run)
            # Half of the products, as causal attention needs them; 2.5 times the forward's for backward.
            flops = 2 * rows * heads * length * length * size * (1 if kind == "forward" else 2.5)
            line = {"kernel": kernel, "backend": name, "ms": round(ms, 4), "tflops": round(flops / ms / 1e9, 1)}
            print(json.dumps({**line, "chosen": out.grad_fn.name()}), flush=True)

    torch.use_deterministic_algorithms(name == "deterministic")
    if backend is None:
        measured()
    else:
        with sdpa_kernel(backend):
            measured()


def main(request):
    tokens, width = request["tokens"], request["width"]
    for size in (64, 128):
        length = 1024
        while length <= tokens:
            for name, backend in (("default", None), ("packed", None), ("flash", SDPBackend.FLASH_ATTENTION), ("deterministic", None)):
                measure(name, backend, size, length, tokens, width)
            length *= 2


main(json.loads(sys.argv[1]))
