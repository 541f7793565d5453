"""Loads an exported model folder with transformers, without remote code, and compares greedy answers with chatlm's.

    python test/golden/e2e/compare.py model_save "请背诵李白的《静夜思》" …      (run in the checkout, after npm run build)

Prints one line a prompt and fails where a token differs. Needs torch and transformers; run by hand.
"""
import json, pathlib, subprocess, sys
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

root = pathlib.Path(__file__).resolve().parents[3]
folder, prompts = sys.argv[1], sys.argv[2:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
same = 0
for prompt in prompts:
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    out = model.generate(torch.tensor([ids]), max_new_tokens=96, do_sample=False, num_beams=1)[0].tolist()[1:]
    ours = subprocess.run(["node", str(root / "bin/chatlm.mjs"), "generate", "--model", folder, "--prompt", prompt, "--search", "greedy",
                           "--max-new-tokens", "96", "--json"], capture_output=True, text=True, check=True).stdout
    tokens = json.loads(ours.strip().splitlines()[-1])["tokens"]
    same += tokens == out
    print("same" if tokens == out else f"DIFFERENT {out} {tokens}", prompt)
print(f"{same} of {len(prompts)} the same, {type(model).__name__}, transformers without remote code")
sys.exit(same != len(prompts))
