"""Golden numbers of the optimizers: ten steps of torch.optim.AdamW and transformers' Adafactor on five weights.

    python make.py        writes optim.safetensors beside itself

Made with torch 2.15, transformers 5.23. The tests hold every weight after each step, and the state after the last,
within 1e-6 (norm of the difference by norm of the reference).

- `start.W` (f32) and `gradient.W` (bytes, a line a step): a run starts from `start * 2^run.start`, and the gradient of
  step s is `(byte - 128) * 2^(s - 12)`, all exact in f32.
- `RUN.W`: W after each step, a line a step. Of the large matrix every 31st value; the whole after the last is
  `RUN.large.last`.
- `RUN.state.W.PART`: the optimizer's state after the last step (of AdamW's for the large matrix every 31st value).
- `norm`, `clipped.W`: torch.nn.utils.clip_grad_norm_(…, 1.0) on the last step's gradients.
"""
import pathlib
import torch
from safetensors.torch import save_file
from transformers.optimization import Adafactor

here = pathlib.Path(__file__).parent
STEPS = 10
SHAPES = {"small": (5, 7), "large": (64, 33), "row": (1, 17), "vector": (9,), "zeros": (6, 8)}
torch.manual_seed(3)
start = {k: torch.randn(s) for k, s in SHAPES.items()}
grads = {k: (torch.randn(STEPS, *s) * 32).round().clamp(-128, 127) + 128 for k, s in SHAPES.items()}
# Rows 1 and 4 never have a gradient, row 2 only from the sixth step on; nor has column 3.
for rows in (grads["zeros"][:, 1], grads["zeros"][:, 4], grads["zeros"][:5, 2], grads["zeros"][:, :, 3]):
    rows.fill_(128)


def gradient(name, step):
    return (grads[name][step] - 128) * 2.0 ** (step - 12)


def adamw(**options):
    return lambda p: torch.optim.AdamW(p, **options)


class AdamWScale:
    """torch.optim.AdamW whose rate is multiplied by max(1e-3, RMS) of each weight, a group a weight."""

    def __init__(self, params, **options):
        self.inner = torch.optim.AdamW([{"params": [p]} for p in params], **options)
        self.param_groups, self.state = [{"lr": None}], self.inner.state

    def step(self):
        for group in self.inner.param_groups:
            size = group["params"][0].detach().double().square().mean().sqrt().item()
            group["lr"] = self.param_groups[0]["lr"] * max(1e-3, size)
        self.inner.step()


def adamw_scale(**options):
    return lambda p: AdamWScale(p, **options)


def adafactor(**options):
    options = {"lr": None, "relative_step": False, "scale_parameter": False, "warmup_init": False} | options
    return lambda p: Adafactor(p, **options)


# Optimizer, learning rate of a step (None: its own), power of two of the start, scale of the gradient. Weights start
# small where steps are, so that an error of a step is seen.
RUNS = {
    "adamw": (adamw(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01), lambda s: 1e-2, -3, 1.0),
    "adamw_other": (adamw(lr=1e-3, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3), lambda s: 1e-3 * (1 - s / 20), -6, 0.37),
    "adamw_scale": (adamw_scale(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1), lambda s: 1e-2 * (1 - s / 20), -5, 0.37),
    "adafactor": (adafactor(lr=1e-2), lambda s: 1e-2 * (1 - s / 20), -3, 1.0),
    "adafactor_warmup": (adafactor(relative_step=True, warmup_init=True, scale_parameter=True), None, -20, 1.0),
    "adafactor_relative": (adafactor(relative_step=True), None, -3, 1.0),
    "adafactor_scale": (adafactor(lr=1e-1, scale_parameter=True), lambda s: 1e-1, 0, 1.0),
    "adafactor_decay": (adafactor(lr=1e-2, weight_decay=0.1, scale_parameter=True), lambda s: 1e-2 * (s + 1), -1, 0.37),
}
PARTS = ("exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col")


def sample(name, values):
    return values.flatten()[::31] if name == "large" and values.numel() > 100 else values.flatten()


tensors = {f"start.{k}": v for k, v in start.items()}
tensors |= {f"gradient.{k}": v.to(torch.uint8) for k, v in grads.items()}
for run, (make, rate, power, scale) in RUNS.items():
    params = {k: torch.nn.Parameter(v * 2.0**power) for k, v in start.items()}
    optimizer = make(list(params.values()))
    steps = {k: [] for k in params}
    for step in range(STEPS):
        if rate:
            optimizer.param_groups[0]["lr"] = rate(step)
        for k, p in params.items():
            p.grad = gradient(k, step) * scale
        optimizer.step()
        for k, p in params.items():
            steps[k].append(sample(k, p.detach().clone()))
    tensors |= {f"{run}.{k}": torch.stack(v) for k, v in steps.items()}
    tensors[f"{run}.large.last"] = params["large"].detach().clone()
    for k, p in params.items():
        state = optimizer.state[p]
        tensors |= {f"{run}.state.{k}.{part}": sample(k, state[part]) for part in PARTS if part in state}
params = {k: torch.nn.Parameter(v.clone()) for k, v in start.items()}
for k, p in params.items():
    p.grad = gradient(k, STEPS - 1)
tensors["norm"] = torch.nn.utils.clip_grad_norm_(list(params.values()), 1.0).view(1)
tensors |= {f"clipped.{k}": sample(k, p.grad) for k, p in params.items()}
save_file({k: v.contiguous().clone() for k, v in tensors.items()}, here / "optim.safetensors")
