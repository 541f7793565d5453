"""Runs every command of docs/export.md on a model folder: what transformers, CTranslate2 and onnxruntime answer is equal.

    python howto.py [DIR] [--prompt TEXT …]

Without DIR a small random model is made (benches/peers/make_model.py), whose answers vary from token to token. Each part
has a virtual environment of its own in ~/.cache/chatlm-dev, since the ONNX exporter wants an older transformers; one
that is not there is made by the part's own `pip install`. Greedy answers in f32 must be equal, of int8 the number of
equal ones is printed. Ends with the versions used, for docs/export.md. Nothing is fetched from a hub.
"""
import argparse, json, os, pathlib, shlex, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "chatlm-dev"

# As they stand in docs/export.md (test/docs/export.test.ts compares them): DIR is the model folder, PROMPT the prompts.
COMMANDS = {
    "venv": """
pip install torch transformers
python answer_transformers.py DIR PROMPT
pip install ctranslate2
ct2-transformers-converter --model DIR --output_dir DIR-ct2
ct2-transformers-converter --model DIR --output_dir DIR-ct2-int8 --quantization int8
python answer_ctranslate2.py DIR-ct2 DIR PROMPT
python answer_ctranslate2.py DIR-ct2-int8 DIR PROMPT
""",
    "venv-onnx": """
pip install "optimum-onnx[onnxruntime]"
optimum-cli export onnx --model DIR --task text2text-generation-with-past DIR-onnx
python answer_onnx.py DIR-onnx PROMPT
""",
}
PACKAGES = {"venv": ["torch", "transformers", "ctranslate2"],
            "venv-onnx": ["torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime"]}


def run(words, **options):
    """Standard output of a command; where it fails, this process ends with what it said."""
    ran = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", **options)
    if ran.returncode != 0:
        sys.exit(f"failed: {shlex.join(map(str, words))}\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def lines_of(venv, start):
    return [line for line in COMMANDS[venv].strip().splitlines() if line.startswith(start)]


def words_of(line, prompts):
    return [word for part in shlex.split(line) for word in (prompts if part == "PROMPT" else [part])]


def environment(venv):
    """Where the part's programs are found, and no hub; made by its own `pip install` where there is none yet."""
    programs = CACHE / venv / "bin"
    found = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    if not (programs / "python").exists():
        run([sys.executable, "-m", "venv", str(CACHE / venv)])
        for line in lines_of(venv, "pip install"):
            run(words_of(line, []), env=found)
    return found


def play(venv, prompts, work):
    """Command → its lines, for the commands that answer."""
    said, found = {}, environment(venv)
    for line in lines_of(venv, ("ct2", "optimum", "python")):
        print(line, file=sys.stderr, flush=True)
        out = run(words_of(line, prompts), cwd=work, env=found)
        if line.startswith("python answer"):
            said[line.removesuffix(" PROMPT")] = out.splitlines()
    return said


def versions(venv):
    ask = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    return json.loads(run([str(CACHE / venv / "bin" / "python"), "-c", ask, *PACKAGES[venv]]))


def random_model(out):
    make = HERE.parents[2] / "benches" / "peers" / "make_model.py"
    sizes = {"d-model": 64, "d-ff": 128, "heads": 4, "layers": 2, "vocab": 1000}
    flags = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    run(["python", str(make), "--out", str(out), *flags], env=environment("venv"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--prompt", action="append", metavar="TEXT")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chatlm-export-") as name:
        work = pathlib.Path(name)
        for program in HERE.glob("answer_*.py"):
            (work / program.name).symlink_to(program)
        if flags.folder is None:
            random_model(work / "DIR")
        else:
            (work / "DIR").symlink_to(flags.folder.resolve())
        prompts = flags.prompt or (["t5 t9 t77 t200", "t8"] if flags.folder is None else ["你好", "感冒了要怎么办？"])
        said = {line: lines for venv in COMMANDS for line, lines in play(venv, prompts, work).items()}
    (_, expected), *others = said.items()
    if len(expected) != len(prompts) or not all(expected):
        sys.exit(f"transformers answers {expected} to {prompts}")
    for line, lines in others:
        equal = sum(a == b for a, b in zip(expected, lines, strict=True))
        print(f"{line}: {equal} of {len(prompts)} answers as transformers gives them", file=sys.stderr)
        if equal < len(prompts) and "int8" not in line:
            sys.exit(f"transformers: {expected}\n{line}: {lines}")
    print(json.dumps({"answers": expected, "versions": {venv: versions(venv) for venv in COMMANDS}}, ensure_ascii=False))


if __name__ == "__main__":
    main()
