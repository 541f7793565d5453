"""Golden numbers for chatlm-train's preference losses: PyTorch formulas in f64, derivatives by autograd.

Run: python make.py   (torch 2.15.0); writes pairs.json beside itself. Tolerance in the test: 1e-9 relative.
The formulas are TRL's (DPOTrainer sigmoid and ipo with length-averaged log-probabilities for ipo, CPOTrainer
simpo with simpo_gamma 0.5 and cpo_alpha 0, ORPOTrainer's odds ratio term), written down from its source.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

torch.manual_seed(23333)
torch.set_default_dtype(torch.float64)


def loss(kind, beta, pc, pr, rc, rr, nc, nr):
    """Loss of one pair, and the two rewards; arguments are sums of log-probabilities and token counts."""
    if kind in ("ipo", "simpo", "orpo"):
        pc, rc, pr, rr = pc / nc, rc / nc, pr / nr, rr / nr
    if kind == "sigmoid":
        logits = (pc - pr) - (rc - rr)
        value = -F.logsigmoid(beta * logits)
    elif kind == "ipo":
        logits = (pc - pr) - (rc - rr)
        value = (logits - 1 / (2 * beta)) ** 2
    elif kind == "simpo":
        logits = (pc - pr) - 0.5 / beta
        value = -F.logsigmoid(beta * logits)
    else:
        log_odds = (pc - pr) - (torch.log1p(-torch.exp(pc)) - torch.log1p(-torch.exp(pr)))
        value = -beta * F.logsigmoid(log_odds)
    if kind in ("sigmoid", "ipo"):
        return value, beta * (pc - rc), beta * (pr - rr)
    return value, beta * pc, beta * pr


cases = []
for kind in ("sigmoid", "ipo", "simpo", "orpo"):
    for index in range(12):
        beta = [0.1, 0.5, 2.0][index % 3]
        nc, nr = (int(n) for n in torch.randint(1, 40, (2,)))
        spread = 0.05 if index < 6 else 3.0
        rc, rr = (-torch.rand(()) * spread * n - 1e-3 for n in (nc, nr))
        pc, pr = (-torch.rand(()) * spread * n - 1e-3 for n in (nc, nr))
        pc.requires_grad_(), pr.requires_grad_()
        value, reward_chosen, reward_rejected = loss(kind, beta, pc, pr, rc, rr, nc, nr)
        by_chosen, by_rejected = torch.autograd.grad(value, (pc, pr))
        cases.append({
            "kind": kind, "beta": beta,
            "policy_chosen": pc.item(), "policy_rejected": pr.item(),
            "reference_chosen": rc.item(), "reference_rejected": rr.item(),
            "tokens_chosen": nc, "tokens_rejected": nr,
            "loss": value.item(), "by_chosen": by_chosen.item(), "by_rejected": by_rejected.item(),
            "reward_chosen": reward_chosen.item(), "reward_rejected": reward_rejected.item(),
        })

lines = ",\n".join(json.dumps(case) for case in cases)
Path(__file__).with_name("pairs.json").write_text(f"[\n{lines}\n]\n")
