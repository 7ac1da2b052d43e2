"""Trains a GPT-2 with PyTorch on GPUs, as a peer of `deeptroupe train --device cuda`: same sizes, batch and optimizer, random tokens.

One argument, JSON: layers, hidden, heads, vocab, seq, batch (of one GPU), warm, steps, ranks, compile, precision: autocast (fp32
parameters, bf16 inside ops), bf16 (parameters, gradients and optimizer states in bf16, no masters), fp32 or tf32 (all in fp32, products
in full or with 10 bits of mantissa). With several ranks it starts one process for each under DistributedDataParallel. Prints one line of JSON: {"seconds": median step, "peak": bytes, "loss"}.
"""
import json
import os
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.c_attn, self.c_proj = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.c_fc, self.c_out = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x):
        rows, length, hidden = x.shape
        packed = self.c_attn(self.ln_1(x)).view(rows, length, 3, self.heads, hidden // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(mixed.transpose(1, 2).reshape(rows, length, hidden))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """Pre-norm, learned positions, head tied to the embedding, no dropout."""

    def __init__(self, layers, hidden, heads, vocab, seq):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, hidden), nn.Embedding(seq, hidden)
        self.h = nn.ModuleList([Block(hidden, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(hidden)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main(rank, request):
    ranks, precision = request["ranks"], request["precision"]
    torch.cuda.set_device(rank)
    torch.manual_seed(rank)
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    if ranks > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29541", RANK=str(rank), WORLD_SIZE=str(ranks))
        torch.distributed.init_process_group("nccl", rank=rank, world_size=ranks)
    with torch.device("cuda"):
        model = GPT2(*(request[key] for key in ("layers", "hidden", "heads", "vocab", "seq")))
        ids, targets = (torch.randint(0, request["vocab"], (request["batch"], request["seq"])) for _ in range(2))
    if precision == "bf16":
        model.bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = model
    if ranks > 1:
        run = nn.parallel.DistributedDataParallel(model, device_ids=[rank], gradient_as_bucket_view=True)
    if request["compile"]:
        run = torch.compile(run)

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "autocast"):
            loss = run(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    for _ in range(request["warm"]):
        loss = step()
    torch.cuda.synchronize()
    seconds = []
    for _ in range(request["steps"]):
        start = time.perf_counter()
        loss = step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        result = {"seconds": statistics.median(seconds), "peak": torch.cuda.max_memory_allocated(), "loss": loss.item()}
        print(json.dumps(result), flush=True)
    if ranks > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    argument = json.loads(sys.argv[1])
    if argument["ranks"] == 1:
        main(0, argument)
    else:
        torch.multiprocessing.spawn(main, args=(argument,), nprocs=argument["ranks"])
