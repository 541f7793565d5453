"""The tokenizers package's half of `chatlm tokenizer train` and `chatlm bench encode`, with all of its threads.

    python tokenizer.py train --in TEXT.txt --model char-bpe --vocab-size 40960 --min-frequency 100 [--out FILE.json]
    python tokenizer.py encode --tokenizer DIR --in TEXT.txt [--batch 4096] [--fast]

Text files are taken by lines. Training is `train_from_iterator`, which reads while it counts, as ours does; encoding is
`encode_batch` (`--fast`: `encode_batch_fast`, without offsets) of batches already in memory, the median of the rounds,
one more before them not counted. Prints one JSON line; `peak_rss_bytes` is VmHWM of the whole process,
`imported_rss_bytes` what importing takes of it.
"""
import os

os.environ["TOKENIZERS_PARALLELISM"] = "true"

import argparse, json, pathlib, statistics, sys, time

import tokenizers

root = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root / "test/golden/tokenizer"))
sys.dont_write_bytecode = True
import peer


def rss_bytes(field="VmHWM"):
    """The most memory this process has held, or with VmRSS what it holds now."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def lines(path):
    with open(path, encoding="utf-8", newline="\n") as text:
        yield from (stripped for line in text if (stripped := line.rstrip("\r\n")))


def train(flags):
    started = time.perf_counter()
    tokenizer = peer.train(flags.model, lines(flags.input), flags.vocab_size, flags.min_frequency)
    if flags.out:
        tokenizer.save(flags.out)
    return {"seconds": time.perf_counter() - started, "vocab_size": tokenizer.get_vocab_size()}


def encode(flags):
    tokenizer = tokenizers.Tokenizer.from_file(f"{flags.tokenizer}/tokenizer.json")
    texts, size = [], 0
    for line in lines(flags.input):
        texts.append(line)
        size += len(line.encode())
        if size >= flags.bytes:
            break
    batches = [texts[start:start + flags.batch] for start in range(0, len(texts), flags.batch)]
    run = tokenizer.encode_batch_fast if flags.fast else tokenizer.encode_batch
    times, tokens = [], 0
    for _ in range(flags.rounds + 1):
        started, tokens = time.perf_counter(), 0
        for batch in batches:
            tokens += sum(map(len, run(batch, add_special_tokens=False)))
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times[1:])
    return {"tokens_per_second": tokens / seconds, "characters_per_second": sum(map(len, texts)) / seconds,
            "bytes_per_second": size / seconds, "texts": len(texts), "tokens": tokens}


def main():
    imported = rss_bytes("VmRSS")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    training, encoding = ways.add_parser("train"), ways.add_parser("encode")
    for way in (training, encoding):
        way.add_argument("--in", dest="input", required=True)
        way.add_argument("--threads", type=int, help="of the package; by default all")
        way.add_argument("--json", action="store_true", help="accepted, since there is no other output")
    training.add_argument("--model", choices=peer.PRESETS, default="char-bpe")
    training.add_argument("--vocab-size", type=int, default=40960)
    training.add_argument("--min-frequency", type=int, default=100)
    training.add_argument("--out")
    encoding.add_argument("--tokenizer", required=True)
    encoding.add_argument("--batch", type=int, default=4096)
    encoding.add_argument("--bytes", type=int, default=100_000_000)
    encoding.add_argument("--rounds", type=int, default=3)
    encoding.add_argument("--fast", action="store_true")
    flags = parser.parse_args()
    if flags.threads:
        # Read when its pool starts, at the first batch.
        os.environ["RAYON_NUM_THREADS"] = str(flags.threads)
    report = train(flags) if flags.way == "train" else encode(flags)
    print(json.dumps({**report, "peak_rss_bytes": rss_bytes(), "imported_rss_bytes": imported,
                      "configuration": {"tokenizers": tokenizers.__version__}}))


if __name__ == "__main__":
    main()
