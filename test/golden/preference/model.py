"""Preference losses of a whole tiny T5: measures, and the gradient of every weight, with LoRA and without.

Run: HF_HUB_OFFLINE=1 python model.py   (torch 2.15.0, transformers 5.23.0, peft 0.21.2)
Reads the base and the adapter of ../lora, writes model.json and model.safetensors beside itself. Computed in f64,
rows padded and masked, log-probabilities from logits. Without LoRA the policy is the base and the reference the base
with the adapter; with LoRA it is the other way round, so the reference is the policy with its adapter off.
Tolerance in the test: 1e-5 on loss and rewards (relative where above 1), 1e-4 of the norm on gradients.
"""

import json
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import T5ForConditionalGeneration

from formulas import pair_loss

HERE = Path(__file__).parent
LORA = HERE.parent / "lora"
MAX_LENGTH = 8
torch.manual_seed(23333)


def text(length):
    return torch.randint(2, 32, (length,)).tolist()


def cut(ids):
    """As the loader does: [EOS] is there after the cut."""
    return ids[: MAX_LENGTH - 1] + [1]


# Texts of usual lengths, an empty chosen answer, an empty rejected one, answers and a prompt that are cut, both the same.
same = text(4)
pairs = [
    (text(4), text(3), text(5)), (text(2), [], text(3)), (text(6), text(4), []), (text(3), text(11), text(2)),
    (text(12), text(2), text(9)), (text(5), same, same), (text(1), text(6), text(6)),
]
pairs = [tuple(cut(ids) for ids in pair) for pair in pairs]
sources, chosen, rejected = zip(*pairs)


def padded(rows):
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


def scores(model, answers):
    """Summed log-probabilities and token counts of each row."""
    source, target = padded(sources), padded(answers)
    mask = (torch.arange(source.shape[1])[None] < torch.tensor([len(row) for row in sources])[:, None]).long()
    lengths = torch.tensor([len(row) for row in answers])
    inputs = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1)
    logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=inputs).logits
    each = torch.log_softmax(logits, -1).gather(-1, target[..., None])[..., 0]
    scored = torch.arange(target.shape[1])[None] < lengths[:, None]
    return (each * scored).sum(1), lengths


def base():
    return T5ForConditionalGeneration.from_pretrained(LORA / "base").double().eval()


def adapted():
    return PeftModel.from_pretrained(base(), LORA / "adapter", is_trainable=True).double().eval()


CASES = {
    "sigmoid": dict(loss="sigmoid"),
    "cdpo": dict(loss="sigmoid", beta=0.5, labelSmoothing=0.2),
    "rpo": dict(loss="sigmoid", rpoAlpha=0.7),
    "ipo": dict(loss="ipo", beta=0.3),
    "simpo": dict(loss="simpo", beta=2.0, simpoGamma=1.2),
    "cpo-simpo": dict(loss="simpo", beta=2.0, cpoAlpha=1.0, labelSmoothing=0.1),
    "orpo": dict(loss="orpo", beta=0.2),
}

cases, tensors = [], {}
for lora in (False, True):
    with torch.no_grad():
        reference = base() if lora else adapted()
        (rc, _), (rr, _) = scores(reference, chosen), scores(reference, rejected)
    for name, settings in CASES.items():
        model = adapted() if lora else base()
        (pc, nc), (pr, nr) = scores(model, chosen), scores(model, rejected)
        values, c, r, logps_c, logps_r, odds = pair_loss(
            settings["loss"], settings.get("beta", 0.1), pc, pr, rc, rr, nc, nr,
            settings.get("labelSmoothing", 0.0), settings.get("simpoGamma", 0.5),
        )
        nll = -pc.sum() / nc.sum()
        weight = 1.0 if settings["loss"] == "orpo" else settings.get("rpoAlpha", settings.get("cpoAlpha", 0.0))
        loss = values.mean() + weight * nll
        loss.backward()
        is_orpo = settings["loss"] == "orpo"
        measures = {
            "loss": loss, "chosen": c.mean(), "rejected": r.mean(), "margins": (c - r).mean(),
            "accuracies": (c > r).double().mean(), "logps_chosen": logps_c.mean(), "logps_rejected": logps_r.mean(),
            "nll_loss": nll,
            "log_odds_ratio": torch.nn.functional.logsigmoid(odds).mean() if is_orpo else torch.zeros(()),
            "log_odds_chosen": odds.mean(),
        }
        label = f"{name}{'-lora' if lora else ''}"
        cases.append({
            "name": label, "lora": lora, "settings": {"beta": 0.1, **settings},
            "measures": {key: value.item() for key, value in measures.items()},
        })
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                key = key.removeprefix("base_model.model.").replace(".default", "")
                tensors[f"{label}/{key}"] = parameter.grad.float().contiguous()
    tensors[f"reference{'-lora' if lora else ''}"] = torch.stack([rc, rr]).float()

rows = [{"source": s, "chosen": c, "rejected": r} for s, c, r in pairs]
(HERE / "model.json").write_text(json.dumps({"pairs": rows, "cases": cases}) + "\n")
save_file(tensors, HERE / "model.safetensors")
print(len(tensors), "tensors;", {case["name"]: round(case["measures"]["loss"], 4) for case in cases})
