"""Golden vocabularies, merges and ids of the tokenizers package for generated text.

    python make.py        writes texts.jsonl and expected.json beside itself

Made with tokenizers 0.23. crates/chatlm-tokenizer/tests/golden.rs trains on the texts with each of the settings and
holds vocabulary and merges equal to the package's, and the ids of every text. The text is generated: words of a made-up
lexicon (so that merges go deep and ties are many), numbers, punctuation of both widths, other scripts, what NFKC
changes, combining marks, white space of every kind, and special tokens as `chatlm corpus` writes them.
"""
import json, pathlib, random

import peer

here = pathlib.Path(__file__).parent
SETTINGS = [("char-bpe", 600, 2), ("char-bpe", 2000, 1), ("char-bpe", 900, 12),
            ("byte-bpe", 500, 2), ("byte-bpe", 1500, 1), ("byte-bpe", 800, 12)]
HAN = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经"
LATIN = ["the", "there", "then", "other", "mother", "don't", "we're", "I'll", "naïve", "café", "ＡＢＣ", "GPT-2", "e.g."]
OTHERS = ["привет", "λόγος", "שלום", "नमस्ते", "한국어", "가각", "ひらがな", "カタカナ", "ｶﾞｷﾞ", "e\u0301a\u0300", "①②", "½", "ﬁ", "㍿",
          "🙂👍🏽", "👨‍👩‍👧", "𠀀𠀁", "\u200b", "\ufeff", "▁", "Ġ", "\u00ad", "\x01"]
SPACES = [" ", " ", " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u3000", "\u00a0", "\u2028", ""]
SIGNS = list("，。！？；：、“”（）《》—…,.!?;:'\"()[]{}-_/\\@#$%^&*+=<>|~`") + ["……", "——", "...", "''s", "[SEP]", "[EOS]"]


def texts():
    chance = random.Random(23333)
    lexicon = ["".join(chance.choices(HAN, k=chance.choice([1, 1, 2, 2, 2, 3, 4]))) for _ in range(160)]
    weights = [1 / (rank + 1) for rank in range(len(lexicon))]
    for _ in range(360):
        parts = []
        for _ in range(chance.randint(1, 30)):
            kind = chance.random()
            if kind < 0.62:
                parts.append(chance.choices(lexicon, weights)[0])
            elif kind < 0.72:
                parts.append(chance.choice(LATIN))
            elif kind < 0.77:
                parts.append(str(chance.randint(0, 10 ** chance.randint(1, 6))))
            elif kind < 0.81:
                parts.append(chance.choice(OTHERS))
            elif kind < 0.88:
                parts.append(chance.choice(SPACES))
            else:
                parts.append(chance.choice(SIGNS))
        yield "".join(parts)
    yield "好" * 300
    yield " " * 50
    yield "哈" * 7 + "。" + "哈" * 8
    yield "aaa" * 33


def main():
    made = list(texts())
    with open(here / "texts.jsonl", "w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in made)
    expected = []
    for preset, vocab_size, min_frequency in SETTINGS:
        trained = peer.train(preset, made, vocab_size, min_frequency)
        model = json.loads(trained.to_str())["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].get)
        # What `chatlm tokenizer train` adds to the package's vocabulary, so that ids can be compared.
        trained.add_special_tokens(peer.SPECIAL)
        trained.add_tokens([blank for blank in "\t\n" if trained.token_to_id(blank) is None])
        ids = [encoding.ids for encoding in trained.encode_batch(made, add_special_tokens=False)]
        expected.append({"model": preset, "vocab_size": vocab_size, "min_frequency": min_frequency, "tokens": tokens,
                         "merges": [[model["vocab"][part] for part in pair] for pair in model["merges"]],
                         "ids": ids[::5]})
    lines = ",\n".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in expected)
    (here / "expected.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
