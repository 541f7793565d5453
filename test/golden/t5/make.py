"""Golden numbers of a tiny T5: weights, inputs, logits, loss and every gradient, by transformers and PyTorch in f32.

    python make.py        writes v10.safetensors (ReLU, tied) and v11.safetensors (gated GELU, untied) beside itself

Made with torch 2.15, transformers 5.23. Tolerances of the tests: loss 1e-5, logits 1e-4, each gradient tensor 1e-4
(norm of the difference over norm of the reference). Dropout 0; row 1 and row 2 are padded on both sides.
"""
import json, pathlib
import torch
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration

here = pathlib.Path(__file__).parent
SHAPE = dict(vocab_size=48, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2,
             relative_attention_num_buckets=8, relative_attention_max_distance=12, dropout_rate=0.0,
             pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)

for name, extra in {"v10": dict(feed_forward_proj="relu", tie_word_embeddings=True),
                    "v11": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)}.items():
    torch.manual_seed(7)
    config = T5Config(**SHAPE, **extra)
    model = T5ForConditionalGeneration(config).float().eval()
    untied = not extra["tie_word_embeddings"]
    if untied:  # transformers 5 ties every T5; v1.1's own weights hold a head
        model.lm_head.weight = torch.nn.Parameter(torch.randn(48, 16))
    with torch.no_grad():  # norms of exactly 1 would hide mistakes
        for key, value in model.named_parameters():
            if "layer_norm" in key:
                value.add_(torch.randn_like(value) * 0.1)
    source = torch.randint(2, 48, (3, 20)); target = torch.randint(2, 48, (3, 15))
    mask = torch.ones_like(source)
    for row, (s, t) in enumerate([(20, 15), (11, 6), (3, 1)]):
        source[row, s - 1] = 1; source[row, s:] = 0; mask[row, s:] = 0
        target[row, t - 1] = 1; target[row, t:] = 0
    labels = target.masked_fill(target == 0, -100)
    out = model(input_ids=source, attention_mask=mask, labels=labels)
    out.loss.backward()
    decoder = torch.cat([torch.zeros(3, 1, dtype=torch.long), target[:, :-1]], 1)
    smooth = torch.nn.functional.cross_entropy(out.logits.view(-1, 48), labels.view(-1), ignore_index=-100,
                                               reduction="sum", label_smoothing=0.1)
    tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} | (set() if untied else {"lm_head.weight"})
    tensors = {"source": source.int(), "target": target.int(), "decoder": decoder.int(), "mask": mask.to(torch.uint8),
               "logits": out.logits.detach(), "loss": out.loss.detach().view(1), "smooth": smooth.detach().view(1)}
    for key, value in model.named_parameters():
        if key not in tied:
            tensors[f"weight.{key}"] = value.detach().clone()
            tensors[f"grad.{key}"] = value.grad.clone()
    shape = {**SHAPE, **extra}
    save_file({k: v.contiguous() for k, v in tensors.items()}, here / f"{name}.safetensors", {"config": json.dumps(shape)})
    print(name, float(out.loss), len(tensors))
