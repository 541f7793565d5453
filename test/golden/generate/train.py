"""Trains the tiny T5 that the golden answers of this folder come from, on a made-up language.

Run: HF_HUB_OFFLINE=1 python train.py   (torch 2.15.0, transformers 5.23.0; about five minutes)
Writes tiny/ (a model folder, weights rounded to bf16 and stored so) and prompts.json.

A prompt is an order (one of four ids) and 13 to 26 different letters; the answer says the letters again, each in
one of two dialects drawn at random with odds of its own, some of them followed by an echo, forwards or
backwards. The odds leave the model in doubt at most steps, which is what searches are there for.
"""

import json
import random
from pathlib import Path

import torch
from transformers import T5Config, T5ForConditionalGeneration

HERE = Path(__file__).parent
LETTERS, ORDERS = 90, 4
FIRST, FIRST_DIALECT, SECOND_DIALECT, ECHO = 6, 100, 195, 290
STEPS, BATCH = 3000, 32


def prompt(draw):
    letters = draw.sample(range(LETTERS), draw.randint(13, 26))
    return [2 + draw.randrange(ORDERS), *(FIRST + letter for letter in letters), 1]


def answer(ids, draw):
    order, letters = ids[0] - 2, [i - FIRST for i in ids[1:-1]]
    if order % 2 == 1:
        letters.reverse()
    out = []
    for letter in letters:
        odds = 0.55 + 0.4 * ((letter * 37) % LETTERS) / LETTERS
        out.append((FIRST_DIALECT if draw.random() < odds else SECOND_DIALECT) + letter)
        if order >= 2 and (letter * 53) % 3 == 0 and draw.random() < 0.7:
            out.append(ECHO + letter % 8)
    return [*out, 1]


def padded(rows, fill):
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def main():
    torch.manual_seed(23333)
    draw = random.Random(23333)
    config = T5Config(
        vocab_size=300, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_decoder_layers=2, num_heads=4,
        relative_attention_num_buckets=16, relative_attention_max_distance=32, dropout_rate=0.0,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS, pct_start=0.1)
    for step in range(STEPS):
        sources = [prompt(draw) for _ in range(BATCH)]
        targets = [answer(source, draw) for source in sources]
        ids = padded(sources, 0)
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=padded(targets, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(step, round(loss.item(), 3), flush=True)
    folder = HERE / "tiny"
    model.eval().to(torch.bfloat16).save_pretrained(folder)
    (HERE / "prompts.json").write_text(json.dumps([prompt(draw) for _ in range(200)], separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
