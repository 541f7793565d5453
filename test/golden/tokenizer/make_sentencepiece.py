"""Small SentencePiece models of made text, and the ids that the sentencepiece package gives.

Run: python make_sentencepiece.py   (sentencepiece 0.2.3)
Writes bpe.model, unigram.model, bytes.model and sentencepiece.json beside itself.
"""

import json
from io import BytesIO
from pathlib import Path

import sentencepiece as spm

HERE = Path(__file__).parent
SUBJECTS = ["老师", "学生", "小猫", "the cat", "工程师", "a teacher"]
VERBS = ["看见", "喜欢", "想念", "sees", "写完了"]
OBJECTS = ["一本书", "月亮", "the moon", "3只鸟", "新的程序", "an old tree"]
TEXT = [f"{s}{v}{o}。" if i % 2 else f"{s} {v} {o}, 第{i}天" for i, (s, v, o) in enumerate(
    (s, v, o) for s in SUBJECTS for v in VERBS for o in OBJECTS)]
PROBES = TEXT[:20] + [
    "", " ", "  老师  喜欢   月亮 ", "Ｔｈｅ　ｃａｔ①", "never seen: 龘😀é", "第12天", "the moon\nthe cat\t新",
    "▁看见▁", "ﬁn ½ 가", "月亮<sep>老师", "<0x41> <unused>",
]
MODELS = {
    "bpe": dict(model_type="bpe", vocab_size=150, character_coverage=0.98, normalization_rule_name="identity"),
    "unigram": dict(model_type="unigram", vocab_size=150, pad_id=3, user_defined_symbols=["<sep>"]),
    "bytes": dict(
        model_type="bpe", vocab_size=420, byte_fallback=True, remove_extra_whitespaces=False,
        normalization_rule_name="identity", user_defined_symbols=["<sep>"],
    ),
}

golden = {}
for name, settings in MODELS.items():
    model = BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, hard_vocab_limit=False, minloglevel=2, num_threads=1,
        **settings)
    (HERE / f"{name}.model").write_bytes(model.getvalue())
    processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
    golden[name] = [{"text": text, "ids": processor.encode(text)} for text in PROBES]
(HERE / "sentencepiece.json").write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")
