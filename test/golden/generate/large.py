"""Answers of transformers on a 0.2 B model of random weights, which the test makes again from its seed.

Run: cargo run --release -p chatlm-checkpoint --example random_model -- /tmp/large 11
     HF_HUB_OFFLINE=1 python large.py /tmp/large   (transformers 5.23.0, torch 2.15.0); writes large.json.

Eight prompts of random ids, greedy and five beams, 32 tokens. The sets are those of make.py, prompts beside them.
"""

import json
import random
import sys

import torch
from transformers import T5ForConditionalGeneration

import make

make.LONGEST = 32
# Random weights say the token just read again and again (at first [PAD]): bans make them speak.
BANS = {"suppress": [0], "noRepeatNgram": 1}
SETS = [
    (8, BANS), (3, {**BANS, "noRepeatNgram": 2}),
    (8, make.beam(**BANS)), (3, make.beam(**BANS, lengthPenalty=0.5, answers=2)),
]


if __name__ == "__main__":
    torch.set_num_threads(2)
    draw = random.Random(11)
    model = T5ForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    prompts = [[*(draw.randrange(7, 29298) for _ in range(draw.randint(4, 40))), 1] for _ in range(8)]
    sets = [make.answered(model, prompts, rows, settings) for rows, settings in SETS]
    text = json.dumps({"seed": 11, "prompts": prompts, "sets": sets}, separators=(",", ":"))
    make.HERE.joinpath("large.json").write_text(text + "\n")
