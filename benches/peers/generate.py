"""The peers' half of `chatlm bench generate`: exactly --tokens new tokens a row, through transformers or CTranslate2.

    python generate.py --engine ctranslate2 --model DIR --convert OUT --dtype int8
    python generate.py --engine ctranslate2 --model OUT --batch 8 --source 64 --tokens 96 --search greedy --dtype int8
    python generate.py --engine transformers --model DIR --batch 1 --search beam --beams 5 --dtype bf16

Every engine gets the same ids: --source of them a row, drawn by Python's own generator, [EOS] last. No end token counts:
all engines forbid it up to the last token. One call is not counted; seconds are the median of --runs calls, from ids (or
tokens) in to ids (or tokens) out: encoder and decoding, no loading. `first_token_seconds` is the same of calls that ask
for one token. `peak_rss_bytes` is VmHWM of this process, `imported_rss_bytes` what Python and its imports alone take of
it. CTranslate2 runs without torch, as its users run it, so converting (--convert) is another call. Prints one JSON line.
"""
import argparse, json, pathlib, random, shutil, statistics, time

COMPUTE = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}
END = 1


def rss_bytes(field="VmHWM"):
    """The most memory this process has held, or with VmRSS what it holds now. (train_step.py has it too, with torch.)"""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def prompts(flags, vocab):
    draw = random.Random(flags.seed)
    return [[draw.randrange(2, vocab) for _ in range(flags.source - 1)] + [END] for _ in range(flags.batch)]


def convert(flags):
    """CTranslate2's own folder of a model folder; written beside its place and renamed."""
    from ctranslate2.converters import TransformersConverter
    out = pathlib.Path(flags.convert)
    beside = out.with_name(f".{out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    TransformersConverter(flags.model).convert(str(beside), quantization=COMPUTE[flags.dtype])
    beside.rename(out)
    return {"out": str(out)}


def with_ctranslate2(flags):
    import ctranslate2
    if COMPUTE[flags.dtype] not in ctranslate2.get_supported_compute_types("cpu"):
        raise SystemExit(f"CTranslate2 has no {flags.dtype} on this processor")
    imported = rss_bytes("VmRSS")
    words = json.loads((pathlib.Path(flags.model) / "shared_vocabulary.json").read_text(encoding="utf-8"))
    id_of = {word: id for id, word in enumerate(words)}
    translator = ctranslate2.Translator(flags.model, device="cpu", compute_type=COMPUTE[flags.dtype], inter_threads=1,
                                        intra_threads=flags.threads)
    rows = [[words[id] for id in row] for row in prompts(flags, len(words))]

    def answer(tokens):
        results = translator.translate_batch(rows, beam_size=flags.beams, min_decoding_length=tokens,
                                             max_decoding_length=tokens)
        return [[id_of[word] for word in result.hypotheses[0]] for result in results]

    return answer, imported, {"ctranslate2": ctranslate2.__version__, "compute_type": translator.compute_type}


def with_transformers(flags):
    import torch, transformers
    if flags.dtype == "int8":
        raise SystemExit("transformers has no int8 of its own on processors")
    imported = rss_bytes("VmRSS")
    torch.set_num_threads(flags.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[flags.dtype]
    model = transformers.T5ForConditionalGeneration.from_pretrained(flags.model, dtype=dtype).eval()
    source = torch.tensor(prompts(flags, model.config.vocab_size))
    mask = torch.ones_like(source)

    def answer(tokens):
        with torch.inference_mode():
            ids = model.generate(input_ids=source, attention_mask=mask, min_new_tokens=tokens, max_new_tokens=tokens,
                                 num_beams=flags.beams, do_sample=False)
        return ids[:, 1:].tolist()

    return answer, imported, {"torch": torch.__version__, "transformers": transformers.__version__,
                              "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                              "attention": model.config._attn_implementation}


def measure(flags):
    answer, imported, versions = {"ctranslate2": with_ctranslate2, "transformers": with_transformers}[flags.engine](flags)

    def seconds(tokens):
        taken = []
        for _ in range(flags.runs + 1):
            started = time.perf_counter()
            rows = answer(tokens)
            taken.append(time.perf_counter() - started)
            if any(len(row) != tokens for row in rows):
                raise SystemExit(f"asked for {tokens} tokens a row, got {[len(row) for row in rows]}")
        return statistics.median(taken[1:]), rows

    first, _ = seconds(1)
    whole, rows = seconds(flags.tokens)
    return {
        "tokens_per_second": flags.batch * flags.tokens / whole, "first_token_seconds": first,
        "peak_rss_bytes": rss_bytes(), "imported_rss_bytes": imported,
        **({"answers": rows} if flags.answers else {}),
        "configuration": {**versions, "threads": flags.threads, "dtype": flags.dtype},
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["ctranslate2", "transformers"], required=True)
    parser.add_argument("--model", required=True, metavar="DIR", help="a model folder, for CTranslate2 a converted one")
    parser.add_argument("--convert", metavar="OUT", help="convert --model for CTranslate2 in --dtype, measure nothing")
    for name, default in {"batch": 1, "source": 64, "tokens": 96, "threads": 2, "runs": 3, "seed": 23333}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--search", choices=["greedy", "beam"], default="greedy")
    parser.add_argument("--beams", type=int, default=5, help="with --search beam (5)")
    parser.add_argument("--dtype", choices=list(COMPUTE), default="f32")
    parser.add_argument("--answers", action="store_true", help="the answers' ids too, to compare engines")
    parser.add_argument("--json", action="store_true", help="accepted, since there is no other output")
    flags = parser.parse_args()
    if flags.search == "greedy":
        flags.beams = 1
    return flags


if __name__ == "__main__":
    flags = arguments()
    print(json.dumps(convert(flags) if flags.convert else measure(flags)))
