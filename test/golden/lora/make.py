"""A tiny T5 as transformers saves it, LoRA adapters as PEFT saves them, and their logits and greedy answers.

Run: HF_HUB_OFFLINE=1 python make.py   (torch 2.15.0, transformers 5.23.0, peft 0.21.2)
Writes base/ (a model folder), adapter/ (targets q and v), pattern/ (rank-stabilized, targets by a pattern) and
expected.json beside itself. Tolerance in the tests: 1e-5 absolute on logits, answers equal.
"""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

HERE = Path(__file__).parent
torch.manual_seed(23333)

config = T5Config(
    vocab_size=32, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=4,
    relative_attention_num_buckets=8, relative_attention_max_distance=16,
    pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
)


def fresh(folder):
    shutil.rmtree(HERE / folder, ignore_errors=True)
    return HERE / folder


model = T5ForConditionalGeneration(config).eval()
with torch.no_grad():
    # Random weights repeat one token for ever; larger attention outputs and a likelier [EOS] make answers vary.
    for name, parameter in model.named_parameters():
        if "EncDecAttention.o" in name or "EncDecAttention.v" in name:
            parameter.mul_(3.0)
    model.shared.weight[1].mul_(1.6)
model.save_pretrained(fresh("base"))

lengths = [7, 3, 5, 1]
source = torch.randint(2, 32, (4, 7))
mask = (torch.arange(7)[None] < torch.tensor(lengths)[:, None]).long()
source = source * mask
for row, length in enumerate(lengths):
    source[row, length - 1] = 1
target = torch.randint(2, 32, (4, 5))
target[:, 0] = 0


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits.flatten().tolist()


def answers(model, **settings):
    with torch.no_grad():
        ids = model.generate(
            input_ids=source, attention_mask=mask, max_new_tokens=12, do_sample=False, num_beams=1, **settings
        )
    rows = []
    for row in ids.tolist():
        row = row[1:]
        rows.append([i for i in (row[: row.index(1) + 1] if 1 in row else row) if i != 0])
    return rows


expected = {
    "source": [row[:length] for row, length in zip(source.tolist(), lengths)],
    "target": target.tolist(),
    "base": logits(model),
    "answers": [
        {"settings": {"maxNewTokens": 12}, "tokens": answers(model)},
        {
            "settings": {"maxNewTokens": 12, "repetitionPenalty": 1.5, "noRepeatNgram": 2},
            "tokens": answers(model, repetition_penalty=1.5, no_repeat_ngram_size=2),
        },
    ],
}
for folder, lora in {
    "adapter": LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, lora_alpha=6, lora_dropout=0.1, target_modules=["q", "v"]),
    "pattern": LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=4, lora_alpha=4, use_rslora=True,
        target_modules=r"decoder\..*\.(SelfAttention\.k|DenseReluDense\.wi)",
    ),
}.items():
    base = T5ForConditionalGeneration.from_pretrained(HERE / "base")
    adapted = get_peft_model(base, lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    adapted.save_pretrained(fresh(folder))
    (HERE / folder / "README.md").unlink(missing_ok=True)
    settings = json.loads((HERE / folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "base"
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
    (HERE / folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    expected[folder] = logits(PeftModel.from_pretrained(T5ForConditionalGeneration.from_pretrained(HERE / "base"), HERE / folder))
    merged = logits(adapted.merge_and_unload())
    assert max(abs(a - b) for a, b in zip(merged, expected[folder])) < 1e-5

(HERE / "expected.json").write_text(json.dumps(expected) + "\n")
print(expected["answers"])
