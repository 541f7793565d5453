#!/usr/bin/env python3
"""rensa's half of the dedup comparison: parquet in, rows that stay out.

    dedup.py ROWS.parquet OUT.parquet [--way matrix|rho|pairs] [--permutations 128] [--bands 16] [--threshold 0.85]
             [--ngram 5] [--batch 20000]

Reads prompt and response with pyarrow, cuts their text (NFKC, no white space) into character n-grams in Python, as
rensa takes tokens, and drops each row that an earlier one resembles. Three ways that rensa documents:

matrix  full-set R-MinHash, whole digest matrices, RMinHashLSH; a batch's rows are inserted and queried in Rust. It
        flags each row that shares a band with any other, the first of a group too, and compares no signatures: less
        work than keeping the first
rho     the same with its sampling sketch
pairs   RMinHash.from_token_sets and RMinHashDeduplicator.add_pairs with LSH, which keeps the first and compares
        signatures with the threshold

Prints one JSON object: rows, kept, seconds (reading and writing included) and the peak memory.
"""
import argparse, json, resource, time, unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import rensa

WHITE = {ord(c): None for c in map(chr, range(0x3001)) if c.isspace()}


def tokens(prompt, response, n):
    text = prompt + response
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
    text = text.translate(WHITE) if any(c.isspace() for c in text) else text
    return [text[i : i + n] for i in range(max(1, len(text) - n + 1))]


def batches(path, a):
    for batch in pq.ParquetFile(path).iter_batches(a.batch, columns=["prompt", "response"]):
        prompts, responses = (column.to_pylist() for column in batch.columns)
        yield [tokens(p, r, a.ngram) for p, r in zip(prompts, responses)]


def by_matrix(path, a):
    """Which rows stay, by digest matrices."""
    lsh = rensa.RMinHashLSH(threshold=a.threshold, num_perm=a.permutations, num_bands=a.bands)
    make = {
        "matrix": rensa.RMinHash.digest_matrix_from_token_sets,
        "rho": rensa.RMinHash.digest_matrix_from_token_sets_rho,
    }[a.way]
    kept = []
    for sets in batches(path, a):
        # A row is flagged where any row inserted so far, its own batch included, shares a band with it.
        flags = lsh.insert_matrix_and_query_duplicate_flags(make(sets, a.permutations, 42), start_key=len(kept))
        kept += [not flag for flag in flags]
    return kept


def by_pairs(path, a):
    dedup = rensa.RMinHashDeduplicator(
        threshold=a.threshold, num_perm=a.permutations, use_lsh=True, num_bands=a.bands
    )
    kept = []
    for sets in batches(path, a):
        digests = rensa.RMinHash.from_token_sets(sets, num_perm=a.permutations, seed=42)
        kept += dedup.add_pairs([(str(len(kept) + i), digest) for i, digest in enumerate(digests)])
    return kept


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("rows"), ap.add_argument("out")
    ap.add_argument("--way", choices=["matrix", "rho", "pairs"], default="matrix")
    ap.add_argument("--permutations", type=int, default=128)
    ap.add_argument("--bands", type=int, default=16)
    ap.add_argument("--threshold", type=float, default=0.85)
    ap.add_argument("--ngram", type=int, default=5)
    ap.add_argument("--batch", type=int, default=20_000)
    a = ap.parse_args()
    start = time.perf_counter()
    kept = (by_pairs if a.way == "pairs" else by_matrix)(a.rows, a)
    signed = time.perf_counter() - start
    with pq.ParquetFile(a.rows) as file, pq.ParquetWriter(a.out, file.schema_arrow, compression="zstd") as out:
        done = 0
        for batch in file.iter_batches(a.batch):
            out.write_batch(batch.filter(pa.array(kept[done : done + len(batch)])))
            done += len(batch)
    print(json.dumps({
        "way": a.way,
        "rows": len(kept),
        "kept": sum(kept),
        "seconds": time.perf_counter() - start,
        "compare_seconds": signed,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))


main()
