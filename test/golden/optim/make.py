"""Golden numbers of the optimizers: five steps of torch.optim.AdamW and transformers' Adafactor on three tensors.

    python make.py        writes optim.safetensors beside itself

Made with torch 2.15, transformers 5.23; the tests hold every weight within 1e-6 (absolute) after each step.
"""
import pathlib
import torch
from safetensors.torch import save_file
from transformers.optimization import Adafactor

here = pathlib.Path(__file__).parent
SHAPES = {"matrix": (5, 7), "vector": (9,), "wide": (2, 70)}
torch.manual_seed(3)
start = {k: torch.randn(s) for k, s in SHAPES.items()}
grads = [{k: torch.randn(s) * (0.1 + 0.5 * step) for k, s in SHAPES.items()} for step in range(5)]
RUNS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    "adafactor": lambda p: Adafactor(p, lr=1e-2, relative_step=False, scale_parameter=False, warmup_init=False),
    "adafactor_relative": lambda p: Adafactor(p, relative_step=True, scale_parameter=True, warmup_init=False),
}
tensors = {f"start.{k}": v for k, v in start.items()}
for step, grad in enumerate(grads):
    tensors |= {f"grad.{step}.{k}": v for k, v in grad.items()}
for name, make in RUNS.items():
    params = {k: torch.nn.Parameter(v.clone()) for k, v in start.items()}
    optimizer = make(list(params.values()))
    for step, grad in enumerate(grads):
        for k, p in params.items():
            p.grad = grad[k].clone()
        optimizer.step()
        tensors |= {f"{name}.{step}.{k}": p.detach().clone() for k, p in params.items()}
norm_params = [torch.nn.Parameter(v.clone()) for v in start.values()]
for p, g in zip(norm_params, grads[4].values()):
    p.grad = g.clone()
tensors["norm"] = torch.nn.utils.clip_grad_norm_(norm_params, 1.0).view(1)
tensors |= {f"clipped.{k}": p.grad.clone() for k, p in zip(start, norm_params)}
save_file({k: v.contiguous() for k, v in tensors.items()}, here / "optim.safetensors")
