import sys

import ctranslate2
from transformers import AutoTokenizer

converted, folder, *prompts = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
translator = ctranslate2.Translator(converted)
for prompt in prompts:
    source = tokenizer(prompt + tokenizer.eos_token, add_special_tokens=False).input_ids
    words = tokenizer.convert_ids_to_tokens(source)
    answer = translator.translate_batch([words], beam_size=1, max_decoding_length=64)[0].hypotheses[0]
    print(tokenizer.decode(tokenizer.convert_tokens_to_ids(answer), skip_special_tokens=True))
