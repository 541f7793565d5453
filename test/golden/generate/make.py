"""Golden numbers for chatlm-generate's filters, from transformers' own logits processors.

Run: python make.py   (transformers 5.23.0, torch 2.15.0); writes filters.json beside itself.
Tolerance in the test: 1e-5 absolute; null stands for minus infinity.
"""

import json
import math
from pathlib import Path

import torch
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

torch.manual_seed(23333)
SETTINGS = [
    {},
    {"repetitionPenalty": 1.5},
    {"repetitionPenalty": 0.8},
    {"noRepeatNgram": 1},
    {"noRepeatNgram": 2},
    {"noRepeatNgram": 3},
    {"search": "sample", "temperature": 0.7},
    {"search": "sample", "topK": 5},
    {"search": "sample", "topK": 500},
    {"search": "sample", "topP": 0.8},
    {"search": "sample", "topP": 0.01},
    {"search": "sample", "topK": 9, "topP": 0.6, "temperature": 1.7},
    {"search": "sample", "topK": 7, "topP": 0.95, "temperature": 0.9, "repetitionPenalty": 1.3, "noRepeatNgram": 2},
    {"repetitionPenalty": 1.2, "noRepeatNgram": 3, "topK": 3, "topP": 0.5, "temperature": 2.0},
]
HISTORIES = [[0], [0, 5, 7, 5, 7, 3, 5, 7], [0, 4, 4, 4, 4]]


def processors(settings):
    made = LogitsProcessorList()
    if settings.get("repetitionPenalty", 1.0) != 1.0:
        made.append(RepetitionPenaltyLogitsProcessor(settings["repetitionPenalty"]))
    if settings.get("noRepeatNgram", 0) > 0:
        made.append(NoRepeatNGramLogitsProcessor(settings["noRepeatNgram"]))
    if settings.get("search") == "sample":
        if settings.get("temperature", 1.0) != 1.0:
            made.append(TemperatureLogitsWarper(settings["temperature"]))
        if settings.get("topK", 0) > 0:
            made.append(TopKLogitsWarper(settings["topK"]))
        if settings.get("topP", 1.0) < 1.0:
            made.append(TopPLogitsWarper(settings["topP"]))
    return made


cases = []
for settings in SETTINGS:
    for history in HISTORIES:
        logits = torch.round(torch.randn(1, 20) * 3, decimals=3)
        scores = processors(settings)(torch.tensor([history]), logits.clone())
        expected = [None if math.isinf(x) else x for x in scores[0].tolist()]
        cases.append({"settings": settings, "history": history, "logits": logits[0].tolist(), "expected": expected})

lines = ",\n".join(json.dumps(case) for case in cases)
Path(__file__).with_name("filters.json").write_text(f"[\n{lines}\n]\n")
