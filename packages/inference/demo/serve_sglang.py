"""Streamlit chat with any OpenAI-compatible server (ours, llama.cpp, SGLang, vLLM).

    wf serve --model model.gguf --port 8080
    streamlit run packages/inference/demo/serve_sglang.py

The server's URL comes from $WF_SERVER_URL (default http://127.0.0.1:8080) or the sidebar, its key
from $WF_API_KEY.
"""

from __future__ import annotations

import os

import streamlit as st

from wf_formats.errors import UserError
from wrinklefree_inference import EngineError, Message, Sampling
from wrinklefree_inference.engines.openai import OpenAIEngine
from wrinklefree_inference.options import ClientOptions

DEFAULT_URL = "http://127.0.0.1:8080"


@st.cache_resource(max_entries=4)
def engine_at(url: str) -> OpenAIEngine:
    return OpenAIEngine(url, ClientOptions(os.environ.get("WF_API_KEY")))


def connected(url: str) -> OpenAIEngine:
    """The engine with its facts in the sidebar; without a server, or a URL, the page ends in an error."""
    try:
        engine = engine_at(url)
        facts = engine.facts
    except UserError as error:
        st.error(f"Cannot reach a model. {error}")
        st.stop()
    st.sidebar.subheader("Model")
    st.sidebar.markdown("\n".join(f"- {label}: **{text}**" for label, text in facts.rows()))
    return engine


def sampling_controls() -> Sampling:
    st.sidebar.subheader("Sampling")
    return Sampling(
        temperature=st.sidebar.slider("Temperature (0 is greedy)", 0.0, 2.0, 0.7, 0.05),
        top_p=st.sidebar.slider("Top p", 0.05, 1.0, 0.95, 0.05),
        max_tokens=st.sidebar.slider("Longest answer (tokens)", 1, 2048, 256),
    )


def show(role: str, text: str, note: str) -> None:
    with st.chat_message(role):
        st.markdown(text)
        if note:
            st.caption(note)


def answer(engine: OpenAIEngine, history: list[Message], sampling: Sampling) -> tuple[str, str]:
    """Stream the next turn into the page; its text and what it cost."""
    with st.chat_message("assistant"):
        stream = engine.chat(history, sampling)
        try:
            text = st.write_stream(stream)
        except EngineError as error:
            st.error(str(error))
            st.stop()
        note = str(stream.usage) if stream.usage else ""
        st.caption(note)
    return str(text), note


def main() -> None:
    st.set_page_config(page_title="WrinkleFree chat", page_icon=":speech_balloon:")
    st.title("Chat")
    url = st.sidebar.text_input("Server", os.environ.get("WF_SERVER_URL", DEFAULT_URL))
    turns: list[tuple[Message, str]] = st.session_state.setdefault("turns", [])
    engine = connected(url)
    if st.sidebar.button("Clear chat"):
        turns.clear()
    sampling = sampling_controls()
    for message, note in turns:
        show(message["role"], message["content"], note)
    if prompt := st.chat_input("Ask the model"):
        show("user", prompt, "")
        history: list[Message] = [*(m for m, _ in turns), {"role": "user", "content": prompt}]
        text, note = answer(engine, history, sampling)
        turns.append((history[-1], ""))
        turns.append(({"role": "assistant", "content": text}, note))


main()
