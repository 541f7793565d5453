"""Answers of transformers' searches on the tiny model of train.py.

Run: HF_HUB_OFFLINE=1 python make.py   (transformers 5.23.0, torch 2.15.0); writes answers.json.
     HF_HUB_OFFLINE=1 PYTHONPATH=FOLDER python make.py contrastive   with transformers 4.46.3 in FOLDER (pip install
     --target FOLDER --no-deps transformers==4.46.3 tokenizers==0.20.3 huggingface_hub==0.26.2 requests ...): later
     versions fetch contrastive search from the hub; writes contrastive.json.

A set: settings as chatlm-generate takes them, the rows (places in prompts.json), the answers (one or several a row,
without padding), scores of beams (1e-5 relative), and `sure`: how many tokens of each row's answer must be equal.
Up to there PyTorch's best two choices lie further apart than 1e-4; with beams an answer is sure as a whole or not at
all (0), by the gaps at the edge of what is kept.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import T5ForConditionalGeneration
from transformers.generation import utils

HERE = Path(__file__).parent
LONGEST, MARGIN = 40, 1e-4
NAMES = {
    "maxNewTokens": "max_new_tokens", "minNewTokens": "min_new_tokens", "topK": "top_k", "beams": "num_beams",
    "lengthPenalty": "length_penalty", "answers": "num_return_sequences", "penaltyAlpha": "penalty_alpha",
    "repetitionPenalty": "repetition_penalty", "noRepeatNgram": "no_repeat_ngram_size", "badWords": "bad_words_ids",
    "suppress": "suppress_tokens", "endTokens": "eos_token_id",
}
STOPPING = {"true": True, "false": False, "never": "never"}


def beam(beams=5, **more):
    return {"search": "beam", "beams": beams, **more}


SETS = [
    (200, {}),
    (200, beam()),
    (60, beam(lengthPenalty=2.0)),
    (60, beam(lengthPenalty=-2.0)),
    (60, beam(lengthPenalty=0.0)),
    (60, beam(earlyStopping="true")),
    (60, beam(earlyStopping="never")),
    (60, beam(earlyStopping="never", lengthPenalty=-1.0)),
    (60, beam(earlyStopping="never", lengthPenalty=1.5)),
    (60, beam(earlyStopping="true", lengthPenalty=-2.0, noRepeatNgram=4)),
    (60, beam(answers=3)),
    (60, beam(2, answers=2, earlyStopping="true", lengthPenalty=0.5)),
    (60, beam(4, noRepeatNgram=3)),
    (60, beam(3, repetitionPenalty=1.3)),
    (40, beam(3, minNewTokens=30)),
    (40, beam(3, endTokens=[1, 290, 291, 292])),
    (40, beam(3, badWords=[[290], [291], [101, 102]], suppress=[110, 120, 130])),
    (60, {"noRepeatNgram": 2}),
    (60, {"repetitionPenalty": 1.5}),
    (40, {"minNewTokens": 30, "noRepeatNgram": 3, "suppress": [290]}),
    (40, {"endTokens": [1, 290, 291]}),
]
CONTRASTIVE = [
    (100, {"search": "contrastive", "topK": 4, "penaltyAlpha": 0.6}),
    (40, {"search": "contrastive", "topK": 50, "penaltyAlpha": 0.5}),
    (40, {"search": "contrastive", "topK": 6, "penaltyAlpha": 0.8, "repetitionPenalty": 1.2, "noRepeatNgram": 2}),
]


def arguments(settings):
    given = {NAMES[name]: value for name, value in settings.items() if name in NAMES}
    if "earlyStopping" in settings:
        given["early_stopping"] = STOPPING[settings["earlyStopping"]]
    return {"max_new_tokens": LONGEST, "do_sample": False, "num_beams": 1, **given}


def cut(row, ends):
    row = row[1:]
    end = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
    return [token for token in row[:end] if token != 0]


def first_close(gaps, margin):
    """Tokens before the first doubtful choice."""
    return next((step for step, gap in enumerate(gaps) if gap < margin), len(gaps))


class Gaps:
    """Per row the smallest gap at the edges of what a search with beams keeps."""

    def __init__(self, rows, beams, ends):
        self.smallest = torch.full((rows,), torch.inf)
        self.beams, self.ends = beams, torch.tensor(ends)
        self.original = utils.GenerationMixin._get_top_k_continuations

    def __enter__(self):
        def watched(model, **given):
            scores, vocabulary = given["accumulated_log_probs"], given["accumulated_log_probs"].shape[1] // self.beams
            best = torch.topk(scores, min(4 * self.beams + 4, scores.shape[1]), dim=1)
            ended = torch.isin(best.indices % vocabulary, self.ends)
            for row in range(scores.shape[0]):
                every, open = best.values[row], best.values[row][~ended[row]]
                for edge in (every, open):
                    gap = (edge[self.beams - 1] - edge[self.beams]).item()
                    if gap == gap:
                        self.smallest[row] = min(self.smallest[row].item(), gap)
            return self.original(model, **given)

        utils.GenerationMixin._get_top_k_continuations = watched
        return self

    def __exit__(self, *_):
        utils.GenerationMixin._get_top_k_continuations = self.original


def lines(model, ids, given):
    out = model.generate(
        input_ids=ids, attention_mask=(ids != 0).long(), return_dict_in_generate=True, output_scores=True, **given
    )
    best = torch.stack(out.scores).topk(2, dim=-1).values
    gaps = (best[..., 0] - best[..., 1]).T.tolist()
    return out.sequences.tolist(), [first_close(row, MARGIN) for row in gaps], None


def beams(model, ids, given, ends):
    wanted = given.pop("num_return_sequences", 1)
    kept = min(wanted + 1, given["num_beams"])
    with Gaps(len(ids), given["num_beams"], ends) as gaps:
        out = model.generate(
            input_ids=ids, attention_mask=(ids != 0).long(), return_dict_in_generate=True, output_scores=True,
            num_return_sequences=kept, **given,
        )
    scores = out.sequences_scores.reshape(len(ids), kept)
    between = (scores[:, :-1] - scores[:, 1:]).min(dim=1).values if kept > 1 else gaps.smallest
    sure = [LONGEST if min(a, b) > MARGIN else 0 for a, b in zip(gaps.smallest.tolist(), between.tolist())]
    sequences = out.sequences.reshape(len(ids), kept, -1)[:, :wanted]
    return sequences.tolist(), sure, scores[:, :wanted].tolist()


def contrastive(model, ids, given):
    gaps, original = [], utils._ranking_fast

    def watched(context, following, shares, mask, alpha, width):
        a, b = (x / x.norm(dim=2, keepdim=True) for x in (context, following))
        likeness = torch.matmul(a, b.transpose(1, 2)).squeeze(-1).max(dim=-1).values
        score = ((1 - alpha) * shares.reshape(-1) - alpha * likeness).reshape(-1, width).topk(2, dim=1).values
        gaps.append((score[:, 0] - score[:, 1]).tolist())
        return original(context, following, shares, mask, alpha, width)

    utils._ranking_fast = watched
    out = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **given)
    utils._ranking_fast = original
    return out.tolist(), [first_close(row, MARGIN / 10) for row in zip(*gaps)], None


def answered(model, prompts, rows, settings):
    ids = [prompts[row] for row in range(rows)]
    longest = max(map(len, ids))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    given, ends = arguments(settings), settings.get("endTokens", [1])
    search = settings.get("search", "greedy")
    with torch.no_grad():
        if search == "beam":
            sequences, sure, scores = beams(model, ids, given, ends)
            answers = [[cut(one, ends) for one in row] for row in sequences]
        else:
            sequences, sure, scores = (contrastive if search == "contrastive" else lines)(model, ids, given)
            answers = [[cut(row, ends)] for row in sequences]
    scores = scores and [[round(score, 6) for score in row] for row in scores]
    every = [len(row[0]) for row in answers]
    print(settings, "distinct", len({tuple(row[0]) for row in answers}), "of", rows, "mean length",
          sum(every) / rows, "not sure to the end", sum(s < n for s, n in zip(sure, every)), flush=True)
    return {"settings": {"maxNewTokens": LONGEST, **settings}, "rows": rows, "answers": answers, "sure": sure, "scores": scores}


def write(name, found):
    text = ",\n".join(json.dumps(one, separators=(",", ":")) for one in found)
    (HERE / name).write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    model = T5ForConditionalGeneration.from_pretrained(HERE / "tiny", torch_dtype=torch.float32).eval()
    prompts = json.loads((HERE / "prompts.json").read_text())
    wanted, name = (CONTRASTIVE, "contrastive.json") if "contrastive" in sys.argv else (SETS, "answers.json")
    write(name, [answered(model, prompts, rows, settings) for rows, settings in wanted])
