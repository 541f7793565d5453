"""Golden loss curves: 50 whole training steps of two tiny T5s by transformers and PyTorch, five optimizers each.

    python curve.py        writes curve.safetensors beside itself

A step is what a trainer does: forward, mean cross-entropy over the target tokens, backward, clip_grad_norm_ 1.0 (with
every optimizer), update. Dropout 0, f32, one thread, learning rate constant. Step s (from 0) takes batch s % 10; loss s
is that before update s. `v10` is ReLU and tied, `v11` gated GELU and untied; norms start at 1, as training does.

    source, mask, decoder, labels   (10 batches, 4 rows, 17): source padded with 0, mask 0 there, labels with -100
    v10.weight.NAME                 initial weights, Hugging Face's names
    v10.adamw                       AdamW lr 1e-3, betas 0.9 0.999, eps 1e-8, weight decay 0.01 on everything
    v10.adamw_smooth                the same, label smoothing 0.1 in loss and curve
    v10.adafactor                   Adafactor lr 1e-3, scale_parameter and relative_step off, clip_threshold 1, no decay
    v10.adafactor_relative          Adafactor, scale_parameter, relative_step and warmup_init on, no lr, no decay: small
                                    steps, so this curve says less than the others
    v10.adafactor_reference         the same without warmup_init, which is what the reference program trained with

Metadata: `config`, JSON of `v10`, `v11` (T5Config's fields), `clip`, `steps`. Made with torch 2.15, transformers 5.23.
The same curves in f64 differ by 2e-6 at most (relative), so 1e-4 is a roomy tolerance for a test.
"""
import copy, json, pathlib

import torch
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration
from transformers.optimization import Adafactor

SEED = 8  # with 7, f32 and f64 part by 3e-4 in v10.adafactor: too sharp an edge to test on
BATCHES, ROWS, LONGEST, STEPS, CLIP = 10, 4, 17, 50, 1.0
SHAPE = dict(vocab_size=120, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4,
             relative_attention_num_buckets=32, relative_attention_max_distance=128, dropout_rate=0.0,
             pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
MODELS = {"v10": dict(feed_forward_proj="relu", tie_word_embeddings=True),
          "v11": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)}
RUNS = {
    "adamw": (0.0, lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01)),
    "adamw_smooth": (0.1, lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01)),
    "adafactor": (0.0, lambda p: Adafactor(p, lr=1e-3, scale_parameter=False, relative_step=False, clip_threshold=1.0,
                                           weight_decay=0.0)),
    "adafactor_relative": (0.0, lambda p: Adafactor(p, lr=None, scale_parameter=True, relative_step=True,
                                                    warmup_init=True)),
    "adafactor_reference": (0.0, lambda p: Adafactor(p, lr=None, scale_parameter=True, relative_step=True)),
}


def side(generator):
    """Rows of 2 to 17 ids, the last of them [EOS], padded with 0."""
    ids = torch.randint(2, SHAPE["vocab_size"], (BATCHES, ROWS, LONGEST), generator=generator)
    lengths = torch.randint(2, LONGEST + 1, (BATCHES, ROWS, 1), generator=generator)
    lengths[0, 0], lengths[1, 1] = LONGEST, 2
    place = torch.arange(LONGEST)
    return ids.masked_fill(place == lengths - 1, 1).masked_fill(place >= lengths, 0)


def curve(model, data, smoothing, make_optimizer):
    parameters = list(model.parameters())
    optimizer = make_optimizer(parameters)
    losses = []
    for step in range(STEPS):
        source, mask, decoder, labels = (part[step % BATCHES] for part in data)
        logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=decoder).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100,
                                                 label_smoothing=smoothing)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(11)
    source, target = side(generator), side(generator)
    mask = (source != 0).long()
    decoder = torch.cat([torch.zeros(BATCHES, ROWS, 1, dtype=torch.long), target[..., :-1]], -1)
    labels = target.masked_fill(target == 0, -100)
    data = (source, mask, decoder, labels)
    tensors = {"source": source.int(), "mask": mask.to(torch.uint8), "decoder": decoder.int(), "labels": labels.int()}
    metadata = {"clip": CLIP, "steps": STEPS}
    for name, extra in MODELS.items():
        torch.manual_seed(SEED)
        model = T5ForConditionalGeneration(T5Config(**SHAPE, **extra)).float().train()
        if not extra["tie_word_embeddings"]:  # transformers 5 ties every T5; v1.1's own weights hold a head
            model.lm_head.weight = torch.nn.Parameter(torch.randn(SHAPE["vocab_size"], SHAPE["d_model"]))
        tensors |= {f"{name}.weight.{key}": value.detach().clone() for key, value in model.named_parameters()}
        for run, (smoothing, make_optimizer) in RUNS.items():
            losses = curve(copy.deepcopy(model), data, smoothing, make_optimizer)
            exact = curve(copy.deepcopy(model).double(), data, smoothing, make_optimizer)
            apart = max(abs(a - b) / b for a, b in zip(losses, exact))
            tensors[f"{name}.{run}"] = torch.tensor(losses)
            print(f"{name}.{run}: {losses[0]:.4f} → {losses[STEPS - BATCHES]:.4f} on the first batch, f64 differs by {apart:.1e} at most")
        metadata[name] = {**SHAPE, **extra}
    path = pathlib.Path(__file__).parent / "curve.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path,
              {"config": json.dumps(metadata)})
    print(len(tensors), "tensors,", path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
