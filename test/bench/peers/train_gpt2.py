"""Trains a GPT-2 with PyTorch on the CPU, as a peer of `deeptroupe train`: same sizes, tokens, order and optimizer.

One argument, JSON: tokens (file of uint16), layers, hidden, heads, vocab, seq, batch, steps, threads, compile, precision:
fp32; bf16 (the model in bf16, AdamW on fp32 masters, as DeepSpeed's bf16 does); autocast (fp32 weights, bf16 inside ops).
Prints one line of JSON for each step: {"step", "loss", "seconds"}.
"""
import json
import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(hidden, 3 * hidden)
        self.c_proj = nn.Linear(hidden, hidden)

    def forward(self, x):
        rows, length, hidden = x.shape
        packed = self.c_attn(x).view(rows, length, 3, self.heads, hidden // self.heads)
        q, k, v = (packed[:, :, i].transpose(1, 2) for i in range(3))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).reshape(rows, length, hidden))


class Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(hidden)
        self.attn = Attention(hidden, heads)
        self.ln_2 = nn.LayerNorm(hidden)
        self.c_fc = nn.Linear(hidden, 4 * hidden)
        self.c_proj = nn.Linear(4 * hidden, hidden)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.c_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """Pre-norm, learned positions, head tied to the embedding, no dropout."""

    def __init__(self, layers, hidden, heads, vocab, seq):
        super().__init__()
        self.wte = nn.Embedding(vocab, hidden)
        self.wpe = nn.Embedding(seq, hidden)
        self.h = nn.ModuleList([Block(hidden, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(hidden)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if "c_proj" in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main(request):
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    seq, batch = request["seq"], request["batch"]
    tokens = torch.frombuffer(open(request["tokens"], "rb").read(), dtype=torch.uint16).long()
    model = GPT2(*(request[key] for key in ("layers", "hidden", "heads", "vocab", "seq")))
    precision = request["precision"]
    updated = parameters = list(model.parameters())
    if precision == "bf16":
        updated = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
        model.bfloat16()
        parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(updated, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if request["compile"] else model
    for step in range(request["steps"]):
        start = time.perf_counter()
        first = step * batch * seq
        window = tokens[first : first + batch * seq + 1]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
            loss = run(window[:-1].view(batch, seq), window[1:].view(batch, seq))
        loss.backward()
        if precision == "bf16":
            for master, parameter in zip(updated, parameters):
                master.grad = parameter.grad.float()
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(updated, 1.0)
        optimizer.step()
        if precision == "bf16":
            with torch.no_grad():
                torch._foreach_copy_(parameters, updated)
        optimizer.zero_grad()
        value = loss.item()
        print(json.dumps({"step": step + 1, "loss": value, "seconds": time.perf_counter() - start}), flush=True)


main(json.loads(sys.argv[1]))
