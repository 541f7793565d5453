"""PyTorch's half of `crates/chatlm-t5/examples/step.rs`: the same model, batch and optimizer through transformers, f32, two threads.

    python step.py [steps]
"""
import statistics, sys, time
import torch
from transformers import T5Config, T5ForConditionalGeneration

torch.set_num_threads(2)
torch.manual_seed(1)
config = T5Config(vocab_size=8000, d_model=256, d_ff=1024, num_heads=4, d_kv=64, num_layers=3, num_decoder_layers=3,
                  dropout_rate=0.1, decoder_start_token_id=0)
model = T5ForConditionalGeneration(config).float().train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
source, target = torch.randint(2, 8000, (32, 24)), torch.randint(2, 8000, (32, 64))
mask = torch.ones_like(source)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10
seconds = []
for step in range(steps + 1):
    started = time.perf_counter()
    loss = model(input_ids=source, attention_mask=mask, labels=target).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    seconds.append(time.perf_counter() - started)
print(f"seconds a step {statistics.median(seconds[1:]):.3f} (median of {steps})")
