"""The preference losses in PyTorch, written down from the papers; `make.py --trl` holds them against TRL's own code.

Arguments are sums of log-probabilities and token counts of one pair or of a batch of pairs.
"""

import torch
import torch.nn.functional as F


def pair_loss(kind, beta, pc, pr, rc, rr, nc, nr, label_smoothing=0.0, simpo_gamma=0.5):
    """Losses of pairs: loss, the two rewards, the log-probabilities as the loss takes them, the log odds ratio."""
    if kind != "sigmoid":
        pc, rc, pr, rr = pc / nc, rc / nc, pr / nr, rr / nr
    odds = torch.zeros_like(pc)
    if kind in ("sigmoid", "simpo"):
        x = beta * ((pc - pr) - (rc - rr)) if kind == "sigmoid" else beta * (pc - pr) - simpo_gamma
        value = -(1 - label_smoothing) * F.logsigmoid(x) - label_smoothing * F.logsigmoid(-x)
    elif kind == "ipo":
        value = ((pc - pr) - (rc - rr) - 1 / (2 * beta)) ** 2
    else:
        odds = (pc - pr) - (torch.log1p(-torch.exp(pc)) - torch.log1p(-torch.exp(pr)))
        value = -beta * F.logsigmoid(odds)
    rewards = (beta * (pc - rc), beta * (pr - rr)) if kind in ("sigmoid", "ipo") else (beta * pc, beta * pr)
    return value, *rewards, pc, pr, odds
