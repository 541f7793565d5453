"""Golden numbers for chatlm-train's preference losses: PyTorch formulas in f64, derivatives by autograd.

Run: python make.py [--trl FOLDER]   (torch 2.15.0); writes pairs.json beside itself. Tolerance in the test: 1e-9
relative. With --trl, FOLDER is the unpacked wheel of trl 0.16.1 (the last line of TRL with encoder-decoders in all
three trainers): every number is also computed by the functions of its DPO, CPO and ORPO trainers, cut out of their
files, and must be equal within 1e-12.
"""

import ast
import json
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from formulas import pair_loss

torch.manual_seed(23333)
torch.set_default_dtype(torch.float64)


def cut_out(file, name):
    """A method of a class in a file, as a function."""
    text = file.read_text()
    node = next(n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == name)
    node.decorator_list, node.returns = [], None
    for argument in node.args.args:
        argument.annotation = None
    space = {"torch": torch, "F": F, "FDivergenceType": SimpleNamespace(JS_DIVERGENCE=SimpleNamespace(value="js"),
             ALPHA_DIVERGENCE=SimpleNamespace(value="alpha"))}
    exec(textwrap.dedent(ast.unparse(node)), space)
    return space[name]


def of_trl(folder):
    """The same loss and rewards by TRL's own code."""
    trainers = Path(folder) / "trl" / "trainer"
    dpo = cut_out(trainers / "dpo_trainer.py", "dpo_loss")
    cpo = cut_out(trainers / "cpo_trainer.py", "cpo_loss")
    orpo = cut_out(trainers / "orpo_trainer.py", "odds_ratio_loss")

    def loss(kind, beta, pc, pr, rc, rr, nc, nr, label_smoothing, simpo_gamma):
        trainer = SimpleNamespace(
            beta=beta, label_smoothing=label_smoothing, simpo_gamma=simpo_gamma, loss_type=kind, reference_free=False,
            f_divergence_type="reverse_kl", f_divergence_params=None, accelerator=SimpleNamespace(device="cpu"),
        )
        if kind != "sigmoid":
            pc, rc, pr, rr = pc / nc, rc / nc, pr / nr, rr / nr
        if kind in ("sigmoid", "ipo"):
            return dpo(trainer, pc, pr, rc, rr)
        if kind == "simpo":
            return cpo(trainer, pc, pr)
        losses, chosen, rejected, _, _ = orpo(trainer, pc, pr)
        return -losses, chosen, rejected

    return loss


trl = of_trl(sys.argv[2]) if sys.argv[1:2] == ["--trl"] else None
cases, compared = [], 0
for kind in ("sigmoid", "ipo", "simpo", "orpo"):
    for index in range(20):
        beta = [0.1, 0.5, 2.0][index % 3]
        label_smoothing = [0.0, 0.1, 0.4][index % 4 % 3] if kind in ("sigmoid", "simpo") else 0.0
        simpo_gamma = [0.5, 1.4][index % 2]
        nc, nr = (int(n) for n in torch.randint(1, 40, (2,)))
        spread = 0.05 if index < 10 else 3.0
        rc, rr = (-torch.rand(()) * spread * n - 1e-3 for n in (nc, nr))
        pc, pr = (-torch.rand(()) * spread * n - 1e-3 for n in (nc, nr))
        pc.requires_grad_(), pr.requires_grad_()
        given = (kind, beta, pc, pr, rc, rr, nc, nr, label_smoothing, simpo_gamma)
        value, reward_chosen, reward_rejected, _, _, log_odds = pair_loss(*given)
        by_chosen, by_rejected = torch.autograd.grad(value, (pc, pr))
        if trl is not None:
            for ours, theirs in zip((value, reward_chosen, reward_rejected), trl(*given)):
                assert abs(ours - theirs) <= 1e-12 * max(1, abs(theirs)), (given, ours, theirs)
                compared += 1
        cases.append({
            "kind": kind, "beta": beta, "label_smoothing": label_smoothing, "simpo_gamma": simpo_gamma,
            "policy_chosen": pc.item(), "policy_rejected": pr.item(),
            "reference_chosen": rc.item(), "reference_rejected": rr.item(),
            "tokens_chosen": nc, "tokens_rejected": nr,
            "loss": value.item(), "by_chosen": by_chosen.item(), "by_rejected": by_rejected.item(),
            "reward_chosen": reward_chosen.item(), "reward_rejected": reward_rejected.item(),
            "log_odds": log_odds.item(),
        })

lines = ",\n".join(json.dumps(case) for case in cases)
Path(__file__).with_name("pairs.json").write_text(f"[\n{lines}\n]\n")
print(f"{len(cases)} pairs, {compared} numbers equal to TRL's")
