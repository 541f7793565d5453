"""The training loop of the reference program (ChatLM-mini-Chinese, model/trainer.py) over real rows, in plain PyTorch.

    python train_rows.py --in rows.jsonl --tokenizer DIR --batch 16 --max-length 256 --steps 10 [--precision bf16]

What is the reference's: texts are cut by CHARACTERS to max-length - 5 and get the literal `[EOS]`, a batch is what a
seeded shuffle gives (lengths are not sorted), both sides are padded to the longest row of the batch, labels equal to
[PAD] become -100, the decoder starts with [PAD], encoding happens between the steps in this process (num_workers 0),
the gradient norm is clipped at 1.0. Its own settings are `--precision bf16 --optimizer adafactor` (whose relative steps
ignore every learning rate); AdamW and f32 are there to compare like with like. Not the reference's: no accumulation,
so a step is one batch, and a constant learning rate.

Prints one JSON line. `tokens_per_second` is the median over the steps of real tokens (source and target, without
padding) by seconds of that step, collation included; `padding_share` is padding over all ids of both sides.
"""
import argparse, json, os, pathlib, random, statistics, time

import torch
from tokenizers import Tokenizer
from transformers.optimization import Adafactor

from train_step import chatlm_t5, optimizer_of, precision_of, rss_bytes, versions

PAD, EOS = "[PAD]", "[EOS]"


def read_rows(path):
    if path.suffix == ".parquet":
        import pyarrow.parquet
        table = pyarrow.parquet.read_table(path, columns=["prompt", "response"])
        return list(zip(table["prompt"].to_pylist(), table["response"].to_pylist()))
    with open(path, encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines if line.strip())
        return [(row["prompt"], row["response"]) for row in rows]


def batches(rows, size, seed):
    """Whole batches without end, each epoch in another order."""
    shuffle = random.Random(seed)
    while True:
        order = shuffle.sample(rows, len(rows))
        for at in range(0, len(order) - size + 1, size):
            yield order[at:at + size]


def collate(tokenizer, rows, max_length, pad):
    """(source ids, mask, labels, real tokens)"""
    cut = max_length - len(EOS)
    sides = ([text[:cut] + EOS for text in side] for side in zip(*rows))
    source, target = (tokenizer.encode_batch(side, add_special_tokens=False) for side in sides)
    ids = torch.tensor([row.ids for row in source])
    mask = torch.tensor([row.attention_mask for row in source])
    labels = torch.tensor([row.ids for row in target])
    real = int(mask.sum()) + sum(sum(row.attention_mask) for row in target)
    return ids, mask, labels.masked_fill(labels == pad, -100), real


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="rows", type=pathlib.Path, required=True, metavar="FILE",
                        help=".parquet (wants pyarrow) or .jsonl with prompt and response")
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True, metavar="DIR", help="folder of tokenizer.json")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=23333)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--optimizer", choices=["adamw", "adafactor"], default="adamw")
    parser.add_argument("--lr", type=float, default=1e-4, help="of adamw")
    # The 0.2 B model's; smaller ones only to see that the script works.
    for name, default in {"d-model": 768, "d-ff": 3072, "heads": 12, "layers": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true", help="torch.compile with dynamic shapes")
    return parser.parse_args()


def main():
    flags = arguments()
    imported = rss_bytes("VmRSS")
    os.environ["RAYON_NUM_THREADS"] = str(flags.threads)  # of the tokenizer
    torch.set_num_threads(flags.threads)
    torch.manual_seed(flags.seed)
    tokenizer = Tokenizer.from_file(str(flags.tokenizer / "tokenizer.json"))
    pad, eos = tokenizer.token_to_id(PAD), tokenizer.token_to_id(EOS)
    if pad is None or eos is None:
        raise SystemExit(f"{flags.tokenizer} has no {PAD} or {EOS}")
    tokenizer.no_truncation()
    tokenizer.enable_padding(pad_id=pad, pad_token=PAD)
    rows = read_rows(flags.rows)
    if len(rows) < flags.batch:
        raise SystemExit(f"{flags.rows} has {len(rows)} rows, fewer than a batch of {flags.batch}")
    model = chatlm_t5(tokenizer.get_vocab_size(), flags.d_model, flags.d_ff, flags.heads, flags.layers, pad, eos)
    parameters = list(model.parameters())
    optimizer = Adafactor(parameters) if flags.optimizer == "adafactor" else optimizer_of("adamw", parameters, flags.lr)
    forward = torch.compile(model, dynamic=True) if flags.compile else model
    seconds, tokens, ids, losses = [], [], [], []
    source_of = batches(rows, flags.batch, flags.seed)
    for _ in range(flags.steps + 1):
        started = time.perf_counter()
        source, mask, labels, real = collate(tokenizer, next(source_of), flags.max_length, pad)
        with precision_of(flags.precision):
            loss = forward(input_ids=source, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
        tokens.append(real)
        ids.append(source.numel() + labels.numel())
    # The first step, which asks the system for its memory, is not counted.
    seconds, tokens, ids = seconds[1:], tokens[1:], ids[1:]
    print(json.dumps({
        "tokens_per_second": statistics.median(n / s for n, s in zip(tokens, seconds)),
        "padding_share": 1 - sum(tokens) / sum(ids),
        "peak_rss_bytes": rss_bytes(), "imported_rss_bytes": imported,
        "seconds_per_step": statistics.median(seconds),
        "tokens_per_step": sum(tokens) / len(tokens),
        "loss": losses[1:],
        "configuration": {**versions(model, flags), "batch": flags.batch, "max_length": flags.max_length,
                          "rows": len(rows)},
    }))


if __name__ == "__main__":
    main()
