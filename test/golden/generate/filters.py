"""Golden numbers for chatlm-generate's filters, from transformers' own logits processors.

Run: python filters.py   (transformers 5.23.0, torch 2.15.0); writes filters.json and distributions.json.

filters.json: scores before and after, 1e-5 absolute; null stands for minus infinity. The end token is 1.
distributions.json: exact probabilities of the next token after each filter, to six digits; the test draws from
them and compares by chi-square.
"""

import json
import math
from pathlib import Path

import torch
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

HERE = Path(__file__).parent
torch.manual_seed(23333)
SAMPLE = {"search": "sample"}
DRAWN_BEAMS = {"search": "beam-sample", "beams": 4}
SETTINGS = [
    {},
    {"repetitionPenalty": 1.5},
    {"repetitionPenalty": 0.8},
    {"noRepeatNgram": 1},
    {"noRepeatNgram": 2},
    {"noRepeatNgram": 3},
    {"minNewTokens": 5},
    {"suppress": [3, 9, 11]},
    {"suppressFirst": [3, 9]},
    {"suppressFirst": [3, 9], "forcedFirst": 6},
    {"forcedFirst": 6},
    {"forcedLast": 1, "maxNewTokens": 5},
    {"badWords": [[4], [5, 7], [3, 5, 7, 2], [1]]},
    {"search": "beam", "beams": 3, "noRepeatNgram": 2, "repetitionPenalty": 1.4, "temperature": 2.0, "topK": 2},
    {**SAMPLE, "temperature": 0.7},
    {**SAMPLE, "topK": 5},
    {**SAMPLE, "topK": 500},
    {**SAMPLE, "topP": 0.8},
    {**SAMPLE, "topP": 0.01},
    {**SAMPLE, "topK": 9, "topP": 0.6, "temperature": 1.7},
    {**SAMPLE, "topK": 7, "topP": 0.95, "temperature": 0.9, "repetitionPenalty": 1.3, "noRepeatNgram": 2},
    {**SAMPLE, "topK": 50, "topP": 0.8, "temperature": 0.98, "noRepeatNgram": 4},
    {**DRAWN_BEAMS, "topK": 1},
    {**DRAWN_BEAMS, "topP": 0.01},
    {**DRAWN_BEAMS, "topK": 6, "topP": 0.7, "temperature": 0.8},
    {"repetitionPenalty": 1.2, "noRepeatNgram": 3, "topK": 3, "topP": 0.5, "temperature": 2.0},
]
HISTORIES = [[0], [0, 5, 7, 5, 7, 3, 5, 7], [0, 4, 4, 4, 4]]
NAMES = {
    "maxNewTokens": "max_new_tokens", "minNewTokens": "min_new_tokens", "temperature": "temperature", "topK": "top_k",
    "topP": "top_p", "repetitionPenalty": "repetition_penalty", "noRepeatNgram": "no_repeat_ngram_size",
    "beams": "num_beams", "suppress": "suppress_tokens", "suppressFirst": "begin_suppress_tokens",
    "forcedFirst": "forced_bos_token_id", "forcedLast": "forced_eos_token_id", "badWords": "bad_words_ids",
}
MODEL = T5ForConditionalGeneration(
    T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
)


def processors(settings):
    """What generate would apply, from the model's own choice of processors."""
    given = {NAMES[name]: value for name, value in settings.items() if name in NAMES}
    given["do_sample"] = "sample" in settings.get("search", "greedy")
    given.setdefault("top_k", 0)
    config = GenerationConfig(eos_token_id=1, pad_token_id=0, decoder_start_token_id=0, **given)
    config.max_length = 1 + given.get("max_new_tokens", 320)
    MODEL._prepare_special_tokens(config, device="cpu")
    return MODEL._get_logits_processor(config, input_ids_seq_length=1)


def filtered(settings, history, logits):
    return processors(settings)(torch.tensor([history]), logits[None].clone())[0]


cases = []
for settings in SETTINGS:
    for history in HISTORIES:
        logits = torch.round(torch.randn(20) * 3, decimals=3)
        expected = [None if math.isinf(x) else x for x in filtered(settings, history, logits).tolist()]
        cases.append({"settings": settings, "history": history, "logits": logits.tolist(), "expected": expected})
lines = ",\n".join(json.dumps(case) for case in cases)
(HERE / "filters.json").write_text(f"[\n{lines}\n]\n")

states = []
for settings in [s for s in SETTINGS if "sample" in s.get("search", "")]:
    for history in HISTORIES[:2]:
        logits = torch.round(torch.randn(20) * 1.5, decimals=3)
        shares = filtered(settings, history, logits).double().softmax(-1)
        shares = [round(share, 6) for share in shares.tolist()]
        states.append({"settings": settings, "history": history, "logits": logits.tolist(), "shares": shares})
lines = ",\n".join(json.dumps(state) for state in states)
(HERE / "distributions.json").write_text(f"[\n{lines}\n]\n")
