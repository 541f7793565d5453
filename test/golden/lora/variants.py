"""PEFT's variants of LoRA over base/: logits, logits after merging, and gradients of each of the adapter's weights.

Run: HF_HUB_OFFLINE=1 python variants.py   (torch 2.15.0, transformers 5.23.0, peft 0.21.2), after make.py
Writes variants/NAME/ and variants.json beside itself. Tolerance in the tests: 1e-5 absolute on logits and merged
logits, 1e-4 relative norm on gradients. `python variants.py --check DIR` loads DIR/NAME as chatlm wrote them.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import T5ForConditionalGeneration

HERE = Path(__file__).parent
given = json.loads((HERE / "expected.json").read_text())
lengths = [len(row) for row in given["source"]]
source = torch.tensor([row + [0] * (max(lengths) - len(row)) for row in given["source"]])
mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
target = torch.tensor(given["target"])
torch.manual_seed(7)
labels = torch.randint(2, 32, target.shape)


def base():
    return T5ForConditionalGeneration.from_pretrained(HERE / "base").eval()


def logits(model):
    return model.eval()(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits


def numbers_of(tensor):
    return [float(f"{value:.8g}") for value in tensor.flatten().tolist()]


def plain(name):
    return name.removeprefix("base_model.model.").replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector")


common = {"task_type": "SEQ_2_SEQ_LM", "r": 3, "lora_alpha": 6}
VARIANTS = {
    "rslora": dict(use_rslora=True, target_modules=["k", "wo"]),
    "dora": dict(use_dora=True, target_modules=["q", "v", "wi"]),
    "dora-rslora": dict(use_dora=True, use_rslora=True, target_modules="all-linear", rank_pattern={"wo": 5}),
    "patterns": dict(
        target_modules=["q", "v", "wi"], rank_pattern={r"decoder\..*\.q": 2, "q": 4, r"block\.1\..*\.v": 1},
        alpha_pattern={"wi": 9, "q": 1.5},
    ),
    "layers": dict(
        target_modules=["q", "o"], layers_to_transform=[1], layers_pattern="block",
        exclude_modules=["EncDecAttention.q"], bias="lora_only",
    ),
    "second": dict(target_modules=["k", "q"]),
    "regex": dict(target_modules=r".*\.(SelfAttention|EncDecAttention)\.[kv]", exclude_modules=r"encoder\..*\.v"),
}


def check(folder):
    numbers = json.loads((HERE / "variants.json").read_text())
    for name in VARIANTS:
        model = PeftModel.from_pretrained(base(), Path(folder) / name)
        print(name, (logits(model).flatten() - torch.tensor(numbers["variants"][name]["logits"])).abs().max().item())


def make():
    shutil.rmtree(HERE / "variants", ignore_errors=True)
    found = {}
    for name, settings in VARIANTS.items():
        model = get_peft_model(base(), LoraConfig(**common, **settings))
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.normal_(0, 0.3)
                if "magnitude" in parameter_name:
                    parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
        scores = logits(model)
        torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten()).backward()
        gradients = {plain(n): numbers_of(p.grad) for n, p in model.named_parameters() if p.grad is not None}
        folder = HERE / "variants" / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "base"
        for key in ("target_modules", "exclude_modules"):
            if isinstance(config[key], list):
                config[key].sort()
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        with torch.no_grad():
            merged = logits(model.merge_and_unload())
        found[name] = {
            "logits": numbers_of(scores), "merged": numbers_of(merged), "gradients": gradients,
        }
    # Several adapters over one base, as `add_weighted_adapter` sums them. The plain one comes first: the sum takes its
    # settings, and after rsLoRA's PEFT would scale it by the root of the rank once more.
    numbers = {}
    for combination in ("cat", "linear"):
        model = PeftModel.from_pretrained(base(), HERE / "variants" / "rslora", adapter_name="a")
        model.load_adapter(HERE / "variants" / "second", adapter_name="b")
        model.add_weighted_adapter(["b", "a"], [0.3, 0.7], "both", combination_type=combination)
        model.set_adapter("both")
        with torch.no_grad():
            numbers[combination] = numbers_of(logits(model))
    result = {"labels": labels.tolist(), "variants": found, "weighted": numbers}
    (HERE / "variants.json").write_text(json.dumps(result) + "\n")


check(sys.argv[2]) if "--check" in sys.argv else make()
