"""Trains the tokenizers package and chatlm on the same real text and compares vocabularies, merges and ids.

    python identity.py [--data ../shared/data] [--corpus FILE.txt]… [--settings 8000:2,40960:100] [--presets …]

A developer's proof, not a test: it takes minutes and gigabytes (the package's, byte-level: 79 bytes a byte of text).
Of --data every text field of every file that can be read is taken: json, jsonl, csv, parquet, yml, xml, bz2, txt and
md by lines, in UTF-8, UTF-16 or GB18030. A corpus is a text file, taken by lines. With --data the ids of the published
ChatLM tokenizer (and of each tokenizer trained) on all of that text are compared as well. One line a comparison;
status 1 where one fails. `npm run build` first.
"""
import argparse, bz2, csv, io, json, pathlib, subprocess, sys, tempfile, time

import pyarrow.parquet
from tokenizers import Tokenizer

import peer

root = pathlib.Path(__file__).resolve().parents[3]


def strings(value):
    """All texts in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def decoded(data):
    for encoding in ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "gb18030"]:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            pass
    return None


def texts_of(path):
    if path.suffix == ".parquet":
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from strings(batch.to_pylist())
        return
    data = path.read_bytes()
    if path.suffix == ".bz2":
        data = bz2.decompress(data)
    text = decoded(data)
    if text is None or "\0" in text:
        return
    if path.suffix in (".json", ".jsonl"):
        try:
            yield from strings(json.loads(text))
            return
        except ValueError:
            pass
        try:
            yield from strings([json.loads(line) for line in text.splitlines() if line.strip()])
            return
        except ValueError:
            pass
    if path.suffix == ".csv":
        csv.field_size_limit(sys.maxsize)
        for row in csv.reader(io.StringIO(text)):
            yield from row
        return
    yield from text.split("\n")


def all_texts(folder):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield from texts_of(path)


def chatlm(*args):
    command = [root / "node_modules/.bin/node", root / "bin/chatlm.mjs", *map(str, args), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise SystemExit(f"chatlm {' '.join(map(str, args))}: {ran.stdout}{ran.stderr}")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def lines(texts):
    """A jsonl file's lines, which carry any text; lone surrogates, which no text has, become U+FFFD."""
    for text in texts:
        if text:
            clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
            yield json.dumps({"text": clean}, ensure_ascii=False) + "\n"


def read(file):
    with open(file, encoding="utf-8", newline="\n") as handle:
        for line in handle:
            yield json.loads(line)["text"]


def model(path):
    return json.loads(path.read_text())["model"]


def difference(ours, theirs):
    if ours["vocab"] != theirs["vocab"]:
        other = sorted(set(ours["vocab"].items()) ^ set(theirs["vocab"].items()), key=lambda item: item[1])
        return f"{len(other)} entries of the vocabulary differ, first {other[:4]}"
    for place, (a, b) in enumerate(zip(ours["merges"], theirs["merges"])):
        if a != b:
            return f"merge {place}: ours {a}, the package's {b}"
    a, b = len(ours["merges"]), len(theirs["merges"])
    return None if a == b else f"{a} merges, the package has {b}"


def compare_training(name, file, preset, vocab_size, min_frequency, work):
    out = work / "ours"
    started = time.time()
    chatlm("tokenizer", "train", "--in", file, "--out", out, "--model", preset, "--vocab-size", vocab_size,
           "--min-frequency", min_frequency, "--force")
    ours = time.time() - started
    # In a process of its own, so that its memory goes back to the system.
    script = ("import sys, peer, identity\n"
              "peer.train(sys.argv[1], identity.read(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))"
              ".save(sys.argv[5])")
    started = time.time()
    subprocess.run([sys.executable, "-c", script, preset, file, str(vocab_size), str(min_frequency),
                    work / "theirs.json"], check=True, cwd=pathlib.Path(__file__).parent)
    theirs = time.time() - started
    what = difference(model(out / "tokenizer.json"), model(work / "theirs.json"))
    size = len(model(out / "tokenizer.json")["vocab"])
    print(f"{name} {preset} vocabulary {vocab_size} frequency {min_frequency}: {what or 'equal'}, {size} tokens,",
          f"{ours:.1f} s against {theirs:.1f} s", flush=True)
    return what is None, out


def compare_ids(name, folder, file, work):
    """Ids of every text, ours through `chatlm tokenizer encode`, which reads lines: texts are cut at line ends."""
    package = Tokenizer.from_file(str(folder / "tokenizer.json"))
    package.no_truncation(), package.no_padding()
    rows = [line for text in read(file) for line in text.splitlines()]
    given, answered = work / "rows.txt", work / "ids.jsonl"
    given.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8", newline="\n")
    with open(given) as stdin, open(answered, "w") as stdout:
        subprocess.run([root / "node_modules/.bin/node", root / "bin/chatlm.mjs", "tokenizer", "encode", "--tokenizer",
                        folder, "--json"], stdin=stdin, stdout=stdout, check=True)
    failed = tokens = 0
    with open(answered, encoding="utf-8", newline="\n") as answers:
        for start in range(0, len(rows), 4096):
            batch = rows[start:start + 4096]
            for row, encoding in zip(batch, package.encode_batch(batch, add_special_tokens=False)):
                ids = json.loads(answers.readline())["ids"]
                tokens += len(ids)
                if ids != encoding.ids:
                    failed += 1
                    if failed <= 3:
                        print(f"  {row!r}: ours {ids}, the package's {encoding.ids}", flush=True)
    print(f"{name} ids of {len(rows)} texts, {tokens} tokens: {failed or 'none'} differ", flush=True)
    return failed == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=root.parent / "shared/data")
    parser.add_argument("--corpus", type=pathlib.Path, action="append", default=[])
    parser.add_argument("--settings", default="16000:2,29298:100,40960:2")
    parser.add_argument("--presets", default=",".join(peer.PRESETS))
    parser.add_argument("--only", choices=["merges", "ids"])
    flags = parser.parse_args()
    fine = True
    with tempfile.TemporaryDirectory(prefix="chatlm-identity-") as folder:
        work = pathlib.Path(folder)
        corpora = {}
        if flags.data.is_dir():
            corpora["real"] = work / "real.jsonl"
            with open(corpora["real"], "w", encoding="utf-8", newline="\n") as out:
                out.writelines(lines(all_texts(flags.data)))
        for path in flags.corpus:
            corpora[path.name] = work / f"{path.name}.jsonl"
            with open(corpora[path.name], "w", encoding="utf-8", newline="\n") as out, \
                    open(path, encoding="utf-8", newline="\n") as text:
                out.writelines(lines(line.rstrip("\n") for line in text))
        for name, file in corpora.items():
            print(f"{name}: {file.stat().st_size / 1e6:.1f} MB", flush=True)
        published = flags.data / "tokenizers/chatlm_tokenizer_c4f0e7c4"
        if flags.only != "merges" and published.is_dir():
            fine &= compare_ids("ChatLM's", published, corpora["real"], work)
        for name, file in [] if flags.only == "ids" else corpora.items():
            for preset in flags.presets.split(","):
                for setting in flags.settings.split(","):
                    size, least = map(int, setting.split(":"))
                    equal, out = compare_training(name, file, preset, size, least, work)
                    fine &= equal
                if name == "real":
                    fine &= compare_ids(f"{preset} of real text:", out, file, work)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
