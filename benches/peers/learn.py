"""The learning half of PyTorch: the same T5, initial weights, batches, optimizer and schedule as `chatlm pretrain`.

    python learn.py init --tokenizer DIR --out DIR [--d-model 256 …]   a model folder of random weights
    python learn.py train --model DIR --batches B.jsonl --out DIR --lr 1e-3 --warmup 40 [--dropout 0.1 --seed 1]

`train` reads the batches that `chatlm` trains on (ids, a line a batch), pads them, and steps as plain PyTorch does: mean
cross-entropy over the target tokens, clip at 1.0, torch.optim.AdamW (with `--scale-parameter` its rate multiplied by
max(1e-3, RMS) of each weight), linear warm-up and half a cosine to 0. Prints one JSON line: `loss` of every step,
`seconds`.
"""
import argparse, json, math, pathlib, shutil, time

import torch
from tokenizers import Tokenizer
from transformers import T5ForConditionalGeneration

from train_step import chatlm_t5, precision_of

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def copy_tokenizer(source, out):
    for name in TOKENIZER:
        shutil.copy(source / name, out / name)


def init(flags):
    torch.manual_seed(flags.seed)
    tokenizer = Tokenizer.from_file(str(flags.tokenizer / "tokenizer.json"))
    pad, eos = tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("[EOS]")
    size = tokenizer.get_vocab_size()
    model = chatlm_t5(size, flags.d_model, flags.d_ff, flags.heads, flags.layers, pad, eos)
    model.save_pretrained(flags.out)
    copy_tokenizer(flags.tokenizer, flags.out)
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}))


def padded(rows, value):
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def rate_at(step, flags, total):
    if step < flags.warmup:
        return flags.lr * step / flags.warmup
    return flags.lr * 0.5 * (1 + math.cos(math.pi * (step - flags.warmup) / max(1, total - flags.warmup)))


def train(flags):
    torch.set_num_threads(flags.threads)
    torch.manual_seed(flags.seed)
    model = T5ForConditionalGeneration.from_pretrained(flags.model, dropout_rate=flags.dropout,
                                                       attn_implementation="sdpa").float().train()
    pad = model.config.pad_token_id
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW([{"params": [p]} for p in parameters], weight_decay=flags.weight_decay)
    batches = [json.loads(line) for line in flags.batches.read_text().splitlines()]
    losses, started = [], time.perf_counter()
    for step, batch in enumerate(batches):
        source, labels = padded(batch["source"], pad), padded(batch["target"], -100)
        mask = padded([[1] * len(row) for row in batch["source"]], 0)
        with precision_of(flags.precision):
            loss = model(input_ids=source, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        rate = rate_at(step, flags, len(batches))
        for group in optimizer.param_groups:
            size = group["params"][0].detach().square().mean().sqrt().item() if flags.scale_parameter else 1.0
            group["lr"] = rate * (max(1e-3, size) if flags.scale_parameter else 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    model.save_pretrained(flags.out)
    copy_tokenizer(flags.model, flags.out)
    print(json.dumps({"loss": losses, "seconds": time.perf_counter() - started}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("init")
    make.add_argument("--tokenizer", type=pathlib.Path, required=True)
    make.add_argument("--out", type=pathlib.Path, required=True)
    for name, default in {"d-model": 256, "d-ff": 1024, "heads": 4, "layers": 4, "seed": 23333}.items():
        make.add_argument(f"--{name}", type=int, default=default)
    run = verbs.add_parser("train")
    for name in ("model", "batches", "out"):
        run.add_argument(f"--{name}", type=pathlib.Path, required=True)
    for name, default in {"lr": 1e-3, "weight-decay": 0.01, "dropout": 0.0}.items():
        run.add_argument(f"--{name}", type=float, default=default)
    for name, default in {"warmup": 40, "seed": 23333, "threads": 2}.items():
        run.add_argument(f"--{name}", type=int, default=default)
    run.add_argument("--scale-parameter", action="store_true")
    run.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    flags = parser.parse_args()
    init(flags) if flags.verb == "init" else train(flags)


if __name__ == "__main__":
    main()
