"""What a user does with LangChain's Mistral package against a running server.

Runs alone, in an environment that has that package and nothing of ours:
    python langchain_scenario.py http://127.0.0.1:8000 MODEL
"""

from __future__ import annotations

import functools
import importlib.metadata
import operator
import sys
from collections.abc import Callable
from typing import Any, Literal

import httpx
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_mistralai import ChatMistralAI, MistralAIEmbeddings
from pydantic import BaseModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

VERSION = importlib.metadata.version("langchain-mistralai")


class Person(BaseModel):
    """A person."""

    is_friend: bool
    count: int


def weather_in(city: Literal["Huesca", "Jaca"]) -> str:
    """The weather in a city."""
    return f"windy in {city}"


WEATHER = tool("weather")(weather_in)


def chat_model(url: str, model: str, **fields: Any) -> ChatMistralAI:
    return ChatMistralAI(
        base_url=url + "/v1",
        model=model,
        api_key="none",
        temperature=0.0,
        random_seed=1,
        max_retries=0,
        **fields,
    )


def chat(url: str, model: str) -> None:
    answer = chat_model(url, model, max_tokens=8).invoke(
        [SystemMessage("Be brief."), HumanMessage("Say hello.")]
    )
    assert isinstance(answer.content, str) and answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] <= 8
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


def stream(url: str, model: str) -> None:
    llm = chat_model(url, model, max_tokens=8)
    whole = llm.invoke("Say hello.").content
    streamed = functools.reduce(operator.add, llm.stream("Say hello."))
    assert streamed.content == whole
    assert streamed.response_metadata["finish_reason"] in ("stop", "length")


def tools(url: str, model: str) -> None:
    """A forced call, its result, and the conversation that goes on."""
    asked = HumanMessage("What is the weather in Huesca?")
    llm = chat_model(url, model).bind_tools([WEATHER], tool_choice="any", parallel_tool_calls=False)
    called = llm.invoke([asked])
    assert isinstance(called, AIMessage)
    (call,) = called.tool_calls
    assert call["name"] == "weather" and call["args"]["city"] in ("Huesca", "Jaca")
    streamed = functools.reduce(operator.add, llm.stream([asked]))
    assert streamed.tool_calls[0]["name"] == "weather"
    result = ToolMessage(WEATHER.invoke(call["args"]), tool_call_id=call["id"], name="weather")
    after = chat_model(url, model, max_tokens=4).invoke([asked, called, result])
    assert isinstance(after.content, str)


def structured(url: str, model: str) -> None:
    llm = chat_model(url, model, max_tokens=99)
    by_schema = llm.with_structured_output(Person, method="json_schema")
    assert isinstance(by_schema.invoke("Describe a person as JSON."), Person)


def embed(url: str, model: str) -> None:
    words = Tokenizer(WordLevel({"word": 0}, unk_token="word"))  # else it fetches one, to count
    embeddings = MistralAIEmbeddings(
        endpoint=url + "/v1/", model=model, api_key="none", tokenizer=words
    )
    one, other = embeddings.embed_documents(["north wind", "south wind"])
    assert len(one) == len(other) > 0 and one != other
    assert embeddings.embed_query("north wind") == one


def refused(url: str, model: str) -> None:
    error = _raised(lambda: chat_model(url, "no-such-model").invoke("Hi"))
    assert error.response.status_code == 400 and "Invalid model" in str(error)


def _raised(act: Callable[[], object]) -> httpx.HTTPStatusError:
    try:
        act()
    except httpx.HTTPStatusError as error:
        return error
    raise AssertionError("expected an HTTPStatusError")


def main(url: str, model: str) -> None:
    for step in (chat, stream, tools, structured, embed, refused):
        step(url, model)
        print(f"langchain-mistralai {VERSION}: {step.__name__} ok", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
