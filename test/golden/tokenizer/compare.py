"""Tokenizer folders against the Python packages, on all real text of a data folder; prints what differs.

Run: HF_HUB_OFFLINE=1 python compare.py DATA CHATLM…   (sentencepiece 0.2.3, transformers 5.23.0, jieba 0.42.1;
CHATLM is the command, such as `node bin/chatlm.mjs`)
1. each .model in DATA/tokenizers: `chatlm tokenizer import`, ids of the folder against sentencepiece's;
2. each tokenizer folder there: `chatlm tokenizer retrain` against `train_new_from_iterator`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

DATA, CHATLM = Path(sys.argv[1]), sys.argv[2:]
ENDINGS = {".txt", ".json", ".jsonl", ".csv", ".md"}
LONGEST, MOST = 2000, 20_000_000


def lines():
    read = 0
    for path in sorted(DATA.rglob("*")):
        if path.suffix in ENDINGS and path.is_file() and "tokenizers" not in path.parts:
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            for line in text.splitlines():
                if line and read < MOST:
                    read += len(line)
                    yield line[:LONGEST]


def chatlm(*arguments):
    done = subprocess.run([*CHATLM, "tokenizer", *arguments, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return json.loads(done.stdout)


texts = list(lines())
print(f"{len(texts)} lines, {sum(map(len, texts))} characters")
with tempfile.TemporaryDirectory() as work:
    for model in sorted((DATA / "tokenizers").glob("*.model")):
        out = f"{work}/{model.stem}"
        report = chatlm("import", str(model), "--out", out)
        ours = Tokenizer.from_file(f"{out}/tokenizer.json")
        assert PreTrainedTokenizerFast.from_pretrained(out).pad_token is not None
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
        wrong, shown, ids = 0, 0, 0
        for start in range(0, len(texts), 1000):
            batch = texts[start:start + 1000]
            expected = theirs.encode(batch)
            got = [e.ids for e in ours.encode_batch(batch, add_special_tokens=False)]
            ids += sum(map(len, expected))
            for text, a, b in zip(batch, got, expected):
                if a != b:
                    wrong += 1
                    if shown < 4:
                        shown += 1
                        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
                        near = slice(max(0, at - 2), at + 5)
                        print("  ", [ours.id_to_token(i) for i in a[near]], theirs.id_to_piece(b[near]), repr(text[:40]))
        print(f"{model.name} ({report['model']}): {wrong} of {len(texts)} lines differ, {ids} ids")
    corpus = Path(work) / "corpus.txt"
    used = [text.strip() for text in texts[:20_000] if text.strip()]
    corpus.write_text("\n".join(used) + "\n", encoding="utf-8")
    for folder in sorted(path for path in (DATA / "tokenizers").iterdir() if path.is_dir()):
        out = f"{work}/{folder.name}"
        chatlm("retrain", "--from", str(folder), "--in", str(corpus), "--out", out, "--vocab-size", "8000")
        old = PreTrainedTokenizerFast.from_pretrained(folder)
        new = old.train_new_from_iterator((text for text in used), 8000)
        expected = json.loads(new._tokenizer.to_str())["model"]
        got = json.loads(Path(out, "tokenizer.json").read_text())["model"]
        same = {part: got[part] == expected[part] for part in ("vocab", "merges")}
        print(f"{folder.name}: retrained on {len(used)} lines, {len(got['vocab'])} tokens, equal: {same}")
