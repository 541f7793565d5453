"""OpenAI's own client for Python against a served model: `openai_client.py URL KEY ENDLESS_URL`.

The first server answers with twelve tokens and wants the key; the second writes one answer at a time, without an end,
and lets one more wait. Every part that holds is a line `ok NAME`; the first that does not ends the program.
"""

import asyncio
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
from openai import AsyncOpenAI, OpenAI

url, key, endless = sys.argv[1:]
client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
busy = OpenAI(base_url=f"{endless}/v1", api_key="any", max_retries=0)
drawn = {
    "model": "m",
    "messages": [{"role": "user", "content": "三只猫和五只猫"}],
    "temperature": 1,
    "seed": 7,
}


def create(**more):
    return client.chat.completions.create(**{**drawn, **more})


def content(**more):
    return create(**more).choices[0].message.content


def refused(kind, call, code=None, param=None):
    try:
        call()
    except kind as error:
        assert error.code == code, error.code
        assert error.param == param, error.param
        assert error.type is not None
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def metric(name):
    with urllib.request.urlopen(f"{endless}/metrics") as response:
        for line in response.read().decode().splitlines():
            if line.startswith(f"chatlm_{name} "):
                return float(line.split()[1])
    raise AssertionError(name)


def until(name, value, seconds=20):
    end = time.monotonic() + seconds
    while metric(name) != value:
        assert time.monotonic() < end, f"{name} does not come to {value}"
        time.sleep(0.02)


def chat():
    completion = create()
    [choice] = completion.choices
    assert completion.object == "chat.completion" and completion.model == "m"
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length"
    assert completion.usage.completion_tokens == 12
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 12
    assert content() == content() != content(seed=8)
    assert content(seed=2**62 + 1)


def chat_streamed():
    with create(stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == content()
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12
    # With a stop, since the helper takes an answer that is cut off for an error.
    stop = text[5:7]
    with client.chat.completions.stream(**drawn, stop=stop) as helper:
        for _ in helper:
            pass
        [choice] = helper.get_final_completion().choices
    assert choice.finish_reason == "stop" and choice.message.content == text[: text.index(stop)]


def limits():
    assert len({c.message.content for c in create(n=3).choices}) == 3
    text = content()
    stop = text[3:5]
    [choice] = create(stop=stop).choices
    assert choice.finish_reason == "stop" and choice.message.content == text[: text.index(stop)]
    for name in ("max_tokens", "max_completion_tokens"):
        assert create(**{name: 3}).usage.completion_tokens == 3
    parts = [{"type": "text", "text": "三只猫"}, {"type": "text", "text": "和五只猫"}]
    together = [{"role": "user", "content": "三只猫\n和五只猫"}]
    assert content(messages=[{"role": "user", "content": parts}]) == content(messages=together)
    assert content(user="u", extra_body={"top_k": 3, "anything": {"a": []}}) == text


def completions():
    asked = {"model": "m", "prompt": ["一只狗", "两只狗"], "temperature": 1, "seed": 7, "n": 2}
    whole = client.completions.create(**asked)
    assert [c.index for c in whole.choices] == [0, 1, 2, 3]
    assert whole.usage.completion_tokens == 48
    texts = [""] * 4
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [c.text for c in whole.choices]


def models():
    assert [m.id for m in client.models.list()] == ["m"]
    assert client.models.retrieve("m").owned_by == "chatlm"


def errors():
    missing = {"code": "model_not_found", "param": "model"}
    refused(openai.NotFoundError, lambda: client.models.retrieve("gpt-5"), **missing)
    refused(openai.NotFoundError, lambda: create(model="gpt-5"), **missing)
    other = OpenAI(base_url=f"{url}/v1", api_key="other", max_retries=0)
    refused(openai.AuthenticationError, lambda: other.models.list(), code="invalid_api_key")
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for more, param in (
        ({"tools": [tool]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"temperature": 9}, "temperature"),
        ({"messages": []}, "messages"),
    ):
        refused(openai.BadRequestError, lambda: create(**more), param=param)


def under_load():
    """A full queue refuses; one who leaves a stream frees the place for who waits."""
    first = busy.chat.completions.create(**drawn, stream=True)
    next(iter(first))
    waiting = ThreadPoolExecutor().submit(busy.chat.completions.create, **drawn, max_tokens=2)
    until("requests_waiting", 1)
    call = lambda: busy.chat.completions.create(**drawn)
    error = refused(openai.RateLimitError, call, code="rate_limit_exceeded")
    assert error.response.headers["retry-after"] == "1"
    first.close()
    assert waiting.result(30).usage.completion_tokens == 2
    until("requests_running", 0)


async def at_once():
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as many:
        answers = await asyncio.gather(
            *(many.chat.completions.create(**{**drawn, "seed": seed}) for seed in range(8))
        )
    assert [a.choices[0].message.content for a in answers] == [content(seed=s) for s in range(8)]


for part in (chat, chat_streamed, limits, completions, models, errors, under_load):
    part()
    print("ok", part.__name__, flush=True)
asyncio.run(at_once())
print("ok at_once", flush=True)
