"""The model folder of the generation benches: a tied ReLU T5 of random weights, whole enough for every engine.

    python make_model.py --out DIR [--d-model 768 --d-ff 3072 --heads 12 --layers 10 --vocab 29298] [--seed 23333]

Speed does not depend on what weights say, but an answer of one token for ever would hide a wrong cache, and T5's initial
weights give just that: tied embeddings like the token they read, and the mean of ReLU favours a few. So `livelier` makes
embeddings quieter, what the decoder reads of itself louder and more a matter of place, and takes that mean away; logits
stay of the size that trained ones have. How many different tokens a greedy answer has is printed. The tokenizer is a list of words, `t3` being id 3: enough for CTranslate2's converter,
which takes its vocabulary from there, and for ours. DIR is written beside its place and renamed.
"""
import argparse, json, pathlib, shutil

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from train_step import chatlm_t5

PAD, EOS, UNK = 0, 1, 2
SPECIAL = ["[PAD]", "[EOS]", "[UNK]"]


def livelier(model, quieter=10.0, louder=4.0, place=30.0):
    with torch.no_grad():
        model.shared.weight.div_(quieter)
        model.decoder.final_layer_norm.weight.mul_(quieter)
        for name, weight in model.decoder.named_parameters():
            if name.endswith(("SelfAttention.o.weight", "SelfAttention.q.weight")):
                weight.mul_(louder)
            if name.endswith("relative_attention_bias.weight"):
                weight.mul_(place)
            if name.endswith("DenseReluDense.wo.weight"):
                weight.sub_(weight.mean(1, keepdim=True))
    return model


def word_tokenizer(vocab):
    words = SPECIAL + [f"t{id}" for id in range(len(SPECIAL), vocab)]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token=SPECIAL[UNK]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
    for name, default in {"d-model": 768, "d-ff": 3072, "heads": 12, "layers": 10, "vocab": 29298,
                          "seed": 23333}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main():
    flags = arguments()
    torch.manual_seed(flags.seed)
    model = livelier(chatlm_t5(flags.vocab, flags.d_model, flags.d_ff, flags.heads, flags.layers, PAD, EOS)).eval()
    model.config.use_cache = model.generation_config.use_cache = True
    source = torch.randint(len(SPECIAL), flags.vocab, (1, 64))
    source[0, -1] = EOS
    with torch.inference_mode():
        logits = model(input_ids=source, decoder_input_ids=source).logits
        answer = model.generate(source, min_new_tokens=32, max_new_tokens=32, num_beams=1, do_sample=False)[0, 1:]
    if not logits.isfinite().all():
        raise SystemExit("the logits are not finite")
    beside = flags.out.with_name(f".{flags.out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    word_tokenizer(flags.vocab).save(str(beside / "tokenizer.json"))
    roles = dict(zip(("pad_token", "eos_token", "unk_token"), SPECIAL))
    # As our tokenizers say it: transformers 4 and 5 both know this class, 5's own name for it only 5.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    for name, value in {"tokenizer_config": config, "special_tokens_map": roles}.items():
        (beside / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
    beside.rename(flags.out)
    print(json.dumps({"out": str(flags.out), "parameters": sum(p.numel() for p in model.parameters()),
                      "logits_std": logits.std().item(), "different_tokens_of_32": len(set(answer.tolist()))}))


if __name__ == "__main__":
    main()
