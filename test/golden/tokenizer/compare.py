"""Tokenizer folders against the Python packages, on all real text of a data folder; prints what differs.

Run: HF_HUB_OFFLINE=1 python compare.py DATA CHATLM…   (sentencepiece 0.2.3, transformers 5.23.0, jieba 0.42.1;
CHATLM is the command, such as `node bin/chatlm.mjs`)
1. each .model in DATA/tokenizers, and three that sentencepiece makes of the text (BPE, and both kinds with bytes):
   `chatlm tokenizer import`, ids of the folder against sentencepiece's;
2. each tokenizer folder there: `chatlm tokenizer retrain` against `train_new_from_iterator`;
3. `chatlm tokenizer train --model sentencepiece-bpe` and `unigram` against the tokenizers package's trainers.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
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


MADE = {
    "made_bpe": dict(model_type="bpe"),
    "made_bpe_bytes": dict(model_type="bpe", byte_fallback=True, character_coverage=0.98),
    "made_unigram_bytes": dict(model_type="unigram", byte_fallback=True, character_coverage=0.98),
}
SPECIAL = ["[PAD]", "[EOS]", "[SEP]", "[BOS]", "[CLS]", "[MASK]", "[UNK]"]


def made(work, used):
    for name, settings in MADE.items():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(used), model_prefix=f"{work}/{name}", vocab_size=8000, minloglevel=2, **settings)
        yield Path(f"{work}/{name}.model")


def package(trainer, model, used):
    """The model that the tokenizers package learns in the pipeline of `--model unigram` and `sentencepiece-bpe`."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.UnicodeScripts(), pre_tokenizers.Metaspace(prepend_scheme="first")])
    tokenizer.train_from_iterator(used, trainer)
    return json.loads(tokenizer.to_str())["model"]


texts = list(lines())
used = [text.strip() for text in texts[:20_000] if text.strip()]
print(f"{len(texts)} lines, {sum(map(len, texts))} characters")
with tempfile.TemporaryDirectory() as work:
    for model in [*sorted((DATA / "tokenizers").glob("*.model")), *made(work, used)]:
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
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]

    def ours(kind):
        chatlm("train", "--model", kind, "--in", str(corpus), "--out", f"{work}/{kind}", "--vocab-size", "8000",
               "--min-frequency", "2")
        return json.loads(Path(work, kind, "tokenizer.json").read_text())["model"]

    # The package wants tokens shorter than that, SentencePiece 16 characters at most.
    trainer = trainers.BpeTrainer(
        vocab_size=8000, min_frequency=2, special_tokens=SPECIAL + spelled, max_token_length=17, show_progress=False)
    expected, got = package(trainer, models.BPE(), used), ours("sentencepiece-bpe")
    same = {part: got[part] == expected[part] for part in ("vocab", "merges")}
    print(f"sentencepiece-bpe: {len(got['vocab'])} tokens, equal to the tokenizers package's: {same}")
    head = len(SPECIAL) + len(spelled)
    trainer = trainers.UnigramTrainer(
        vocab_size=8000 - head, initial_alphabet=list("<>x0123456789ABCDEF"), show_progress=False)
    theirs = dict(package(trainer, models.Unigram(), used)["vocab"])
    mine = dict(ours("unigram")["vocab"][head:])
    both = [piece for piece in mine if piece in theirs]
    far = max(abs(mine[piece] - theirs[piece]) for piece in both)
    print(f"unigram: {len(mine)} pieces, {len(both)} of them the tokenizers package's {len(theirs)}, "
          f"scores of the same differ by {far:.6f} at most")
