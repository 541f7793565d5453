"""PyTorch's half of `chatlm bench train-step`: the same T5 (tied, ReLU) through transformers, on random ids.

    python train_step.py --batch 4 --source 128 --target 128 --steps 5 [--precision bf16] [--compile] [--recompute]

A step is forward, backward, clip at 1.0, update; one uncounted step comes first (and compiles). Dropout 0.1, SDPA
attention. bf16 is autocast: weights and moments stay f32. `update` holds clipping and clearing the gradients.
Prints one JSON line with the keys of ours; seconds are medians, `peak_rss_bytes` is VmHWM of the whole process,
`imported_rss_bytes` what importing torch and transformers alone takes of it (builds with CUDA take more).
"""
import argparse, json, statistics, time
from contextlib import nullcontext

import torch, transformers
from transformers import T5Config, T5ForConditionalGeneration
from transformers.optimization import Adafactor


def chatlm_t5(vocab, d_model=768, d_ff=3072, heads=12, layers=10, pad=0, eos=1):
    """A tied ReLU T5 in f32, ready to train; the defaults are the 0.2 B model's."""
    config = T5Config(vocab_size=vocab, d_model=d_model, d_ff=d_ff, num_heads=heads, d_kv=d_model // heads,
                      num_layers=layers, num_decoder_layers=layers, dropout_rate=0.1, feed_forward_proj="relu",
                      pad_token_id=pad, eos_token_id=eos, decoder_start_token_id=pad, use_cache=False)
    return T5ForConditionalGeneration._from_config(config, attn_implementation="sdpa").float().train()


def optimizer_of(name, parameters, lr):
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, fused=True)
    return Adafactor(parameters, lr=lr, scale_parameter=False, relative_step=False)


def precision_of(name):
    return torch.autocast("cpu", torch.bfloat16) if name == "bf16" else nullcontext()


def rss_bytes(field="VmHWM"):
    """The most memory this process has held, or with VmRSS what it holds now."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def versions(model, flags):
    """What a number depends on."""
    return {"torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(), "attention": model.config._attn_implementation,
            "optimizer": flags.optimizer, "precision": flags.precision, "compile": flags.compile,
            "parameters": sum(p.numel() for p in model.parameters())}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"d-model": 768, "d-ff": 3072, "heads": 12, "layers": 10, "vocab": 29298, "batch": 4,
                          "source": 128, "target": 128, "steps": 5, "threads": 2, "seed": 23333}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--optimizer", choices=["adamw", "adafactor"], default="adamw")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--compile", action="store_true", help="torch.compile; compiling falls into the step before")
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing")
    parser.add_argument("--json", action="store_true", help="accepted, since there is no other output")
    return parser.parse_args()


def main():
    flags = arguments()
    imported = rss_bytes("VmRSS")
    torch.set_num_threads(flags.threads)
    torch.manual_seed(flags.seed)
    model = chatlm_t5(flags.vocab, flags.d_model, flags.d_ff, flags.heads, flags.layers)
    if flags.recompute:
        # Newer transformers call it so, and warn of the older name.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    parameters = list(model.parameters())
    optimizer = optimizer_of(flags.optimizer, parameters, flags.lr)
    forward = torch.compile(model) if flags.compile else model
    source = torch.randint(2, flags.vocab, (flags.batch, flags.source))
    target = torch.randint(2, flags.vocab, (flags.batch, flags.target))
    mask = torch.ones_like(source)
    times, losses = [], []
    for _ in range(flags.steps + 1):
        started = time.perf_counter()
        with precision_of(flags.precision):
            loss = forward(input_ids=source, attention_mask=mask, labels=target).loss
        forwarded = time.perf_counter()
        loss.backward()
        backwarded = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ended = time.perf_counter()
        times.append((ended - started, forwarded - started, backwarded - forwarded, ended - backwarded))
        losses.append(loss.item())
    # The first step, which asks the system for its memory, is not counted.
    seconds, forward_s, backward_s, update_s = (statistics.median(column) for column in zip(*times[1:]))
    print(json.dumps({
        "seconds_per_step": seconds, "forward": forward_s, "backward": backward_s, "update": update_s,
        "peak_rss_bytes": rss_bytes(), "imported_rss_bytes": imported,
        "tokens_per_second": flags.batch * (flags.source + flags.target) / seconds,
        "loss": losses[1:],
        "configuration": {**versions(model, flags), "recompute": flags.recompute},
    }))


if __name__ == "__main__":
    main()
