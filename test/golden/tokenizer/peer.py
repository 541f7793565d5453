"""The tokenizers package with the settings of `chatlm tokenizer train`: what ours is compared with."""
import re

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["[PAD]", "[EOS]", "[SEP]", "[BOS]", "[CLS]", "[MASK]", "[UNK]"]
PRESETS = ["char-bpe", "byte-bpe"]


def untrained(preset):
    if preset == "byte-bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Metaspace(prepend_scheme="first")])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return tokenizer


def pieces(texts):
    """Texts as chatlm trains on them: cut at special tokens, none empty."""
    cut = re.compile("|".join(map(re.escape, SPECIAL)))
    return (piece for text in texts for piece in cut.split(text) if piece)


def train(preset, texts, vocab_size, min_frequency):
    tokenizer = untrained(preset)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if preset == "byte-bpe" else [])
    tokenizer.train_from_iterator(pieces(texts), trainer)
    return tokenizer
