import sys

from transformers import AutoTokenizer, T5ForConditionalGeneration

folder, *prompts = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = T5ForConditionalGeneration.from_pretrained(folder)
for prompt in prompts:
    source = tokenizer(prompt + tokenizer.eos_token, add_special_tokens=False, return_tensors="pt")
    answer = model.generate(source.input_ids, attention_mask=source.attention_mask, max_new_tokens=64,
                            num_beams=1, do_sample=False)[0]
    print(tokenizer.decode(answer, skip_special_tokens=True))
