"""The peers' half of `chatlm bench load`: rows through Hugging Face datasets, tokenizers and padding.

    python load.py --in FILE.parquet… --tokenizer DIR --batch 16 --max-length 256 --batches 1000 [--buffer 10000]

datasets streams the parquet files and shuffles within a buffer; each batch is encoded on both sides by
PreTrainedTokenizerFast (tokenizers' own threads), cut at --max-length with [EOS] behind, and padded to the longest of its
batch as transformers' collators do. One batch is not counted. `peak_rss_bytes` is VmHWM of this process,
`imported_rss_bytes` what Python and its imports alone take of it. Prints one JSON line.
"""
import argparse, json, os, time


def rss_bytes(field="VmHWM"):
    """The most memory this process has held, or with VmRSS what it holds now. (train_step.py has it too, with torch.)"""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def measure(flags):
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if flags.threads:
        os.environ["RAYON_NUM_THREADS"] = str(flags.threads)
    import datasets, tokenizers, transformers
    imported = rss_bytes("VmRSS")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(flags.tokenizer)
    rows = datasets.load_dataset("parquet", data_files=flags.inputs, split="train", streaming=True,
                                 columns=["prompt", "response"])
    rows = rows.shuffle(seed=flags.seed, buffer_size=flags.buffer).batch(flags.batch)

    def side(texts):
        ids = tokenizer(texts, truncation=True, max_length=flags.max_length - 1, add_special_tokens=False,
                        return_attention_mask=False, return_token_type_ids=False)["input_ids"]
        real = sum(map(len, ids)) + len(ids)
        padded = tokenizer.pad({"input_ids": [row + [tokenizer.eos_token_id] for row in ids]}, padding="longest",
                               return_tensors="np")["input_ids"]
        return real, padded.size

    started = time.perf_counter()
    seen = tokens = places = 0
    for number, batch in enumerate(rows):
        sides = [side(batch["prompt"]), side(batch["response"])]
        if number == 0:
            first, started = time.perf_counter() - started, time.perf_counter()
            continue
        seen += len(batch["prompt"])
        tokens += sum(real for real, _ in sides)
        places += sum(all for _, all in sides)
        if number == flags.batches:
            break
    seconds = time.perf_counter() - started
    return {
        "rows_per_second": seen / seconds, "tokens_per_second": tokens / seconds, "padding_share": 1 - tokens / places,
        "peak_rss_bytes": rss_bytes(), "imported_rss_bytes": imported, "first_batch_seconds": first, "rows": seen,
        "configuration": {"datasets": datasets.__version__, "tokenizers": tokenizers.__version__,
                          "transformers": transformers.__version__, "buffer": flags.buffer},
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="inputs", nargs="+", required=True, metavar="FILE", help="parquet files")
    parser.add_argument("--tokenizer", required=True, metavar="DIR")
    for name, default in {"batch": 16, "max-length": 256, "batches": 1000, "buffer": 10_000, "threads": 0,
                          "seed": 23333}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="accepted, since there is no other output")
    return parser.parse_args()


if __name__ == "__main__":
    print(json.dumps(measure(arguments())))
