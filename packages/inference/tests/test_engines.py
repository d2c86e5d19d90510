"""Engines against the packaged model: answers, facts and every way to fail."""

from __future__ import annotations

import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from wrinklefree_inference import EngineError, ModelFacts, Sampling, Usage, engine_for, open_engine
from wrinklefree_inference.engines.base import AnswerStream, Counts
from wrinklefree_inference.engines.openai import OpenAIEngine
from wrinklefree_inference.llamacpp.engine import LlamaCppEngine
from wrinklefree_inference.options import ClientOptions, EngineOptions

GREEDY = Sampling(max_tokens=12, temperature=0.0)
QUESTION = [{"role": "user", "content": "Name a colour."}]


def test_facts(engine: LlamaCppEngine, packaged_gguf: Path):
    facts = engine.facts
    assert facts.name == packaged_gguf.stem
    assert facts.size_bytes == packaged_gguf.stat().st_size
    assert facts.num_parameters == 134_515_008
    assert facts.context_tokens == 512
    assert facts.weight_type == "Q4_1"
    assert ("parameters", "134.5 million") in facts.rows()


def test_unknown_facts_have_no_rows():
    assert ModelFacts("m").rows() == [("model", "m")]


def test_chat_streams_pieces_and_counts_tokens(engine: LlamaCppEngine):
    stream = engine.chat(QUESTION, GREEDY)
    pieces = list(stream)
    assert len(pieces) > 3
    assert stream.usage is not None
    assert 1 < stream.usage.completion_tokens <= 12
    assert stream.usage.prompt_tokens > 5
    assert stream.usage.tokens_per_second > 0
    assert engine.chat(QUESTION, GREEDY).text() == "".join(pieces)


def test_complete_continues_the_text_and_stops(engine: LlamaCppEngine):
    counted = engine.complete("1, 2, 3, 4, 5,", GREEDY).text()
    assert counted.startswith(" 6, 7")
    stopped = Sampling(max_tokens=12, temperature=0.0, stop=("7",))
    assert engine.complete("1, 2, 3, 4, 5,", stopped).text() == " 6, "


def test_seed_repeats_an_answer(engine: LlamaCppEngine):
    sampling = Sampling(max_tokens=16, temperature=1.5, seed=3)
    first = engine.complete("Once upon a time", sampling).text()
    assert engine.complete("Once upon a time", sampling).text() == first


def test_a_closed_engine_says_so(small_gguf: Path):
    engine = LlamaCppEngine(small_gguf, EngineOptions(num_threads=1))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.chat(QUESTION, GREEDY).text()


def test_too_long_a_prompt_is_refused(engine: LlamaCppEngine):
    with pytest.raises(EngineError, match="exceed"):
        engine.complete("one two three " * 400, GREEDY).text()


def test_usage_of_one_token_has_no_speed():
    assert Usage(5, 1, 0.5, 0.5).tokens_per_second is None
    assert Usage(5, 11, 0.5, 1.0).tokens_per_second == pytest.approx(20.0)
    assert str(Usage(5, 11, 0.5, 1.0)) == "11 tokens, 20.0 tokens/s, first after 0.50 s"
    assert str(Usage(5, 1, 0.5, 0.5)) == "1 token, first after 0.50 s"
    assert str(Usage(5, 4, 0.5, 0.5001)) == "4 tokens, first after 0.50 s"  # 30,000 tokens/s of a queue


def test_an_answer_that_came_at_once_has_no_speed():
    """As of block diffusion, or with guesses that were all right."""

    def slowly(source):
        for item in source:
            yield item
            time.sleep(0.03)

    for source, speed in (
        (["a b c", Counts(5, 9)], None),
        (["a b c", " d", Counts(5, 9, 9)], None),
        (slowly(["a b c", " d", Counts(5, 1009, 8)]), 1001),
    ):
        stream = AnswerStream(source)
        assert stream.text()
        assert stream.usage is not None
        rate, seconds = stream.usage.tokens_per_second, stream.usage.total_s - stream.usage.first_token_s
        assert rate == (speed and pytest.approx(speed / seconds))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_tokens": 0}, r"max_tokens must be in \[1, 2147483647\], got 0"),
        ({"temperature": -1.0}, r"temperature must be in \[0, 100\] \(0 is greedy\), got -1.0"),
        ({"seed": 2**64}, r"seed must be in .*, got 18446744073709551616"),
        ({"top_p": 0.0}, "top_p must be in"),
    ],
)
def test_sampling_is_checked(keywords, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**keywords)


def test_registry(packaged_gguf: Path):
    assert engine_for(packaged_gguf) == engine_for(packaged_gguf.parent) == "native"
    assert engine_for("https://example.org/v1") == "openai"
    with pytest.raises(ValueError, match=r"known engines: native, llamacpp, bitnetcpp, openai"):
        engine_for("model.bin")
    with pytest.raises(ValueError, match="unknown engine 'vllm'"):
        open_engine(packaged_gguf, "vllm")
    assert isinstance(open_engine("http://127.0.0.1:1"), OpenAIEngine)


def test_files_that_are_no_gguf(tmp_path: Path):
    with pytest.raises(EngineError, match="there is no file"):
        LlamaCppEngine(tmp_path / "missing.gguf")
    with pytest.raises(EngineError, match="is a folder"):
        LlamaCppEngine(tmp_path)
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(EngineError, match=r"begins with b'PK"):
        LlamaCppEngine(wrong)


def _unknown_architecture(path: Path) -> None:
    key, value = b"general.architecture", b"mystery"
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry)


def test_llama_cpp_s_reason_is_in_the_error(tmp_path: Path, packaged_gguf: Path):
    path = tmp_path / "mystery.gguf"
    _unknown_architecture(path)
    engine = LlamaCppEngine(path)
    with pytest.raises(EngineError, match="unknown model architecture: 'mystery'"):
        engine.chat(QUESTION, GREEDY).text()
    with pytest.raises(EngineError, match="unknown model architecture: 'mystery'"):
        engine.tokenize("x")

    cut = tmp_path / "cut.gguf"
    cut.write_bytes(packaged_gguf.read_bytes()[:-1_000_000])
    with pytest.raises(EngineError, match=r"refused .*cut\.gguf.*corrupted or incomplete"):
        LlamaCppEngine(cut).facts  # noqa: B018 - reading it loads the model


def test_no_server(unused_port: int):
    url = f"http://127.0.0.1:{unused_port}"
    with pytest.raises(EngineError, match=rf"no server answers at {url} .*refused"):
        OpenAIEngine(url).facts  # noqa: B018


def test_unknown_model_and_wrong_key(server_url: str):
    assert OpenAIEngine(server_url + "/v1/").facts.num_parameters == 134_515_008
    with pytest.raises(EngineError, match=r"has no model 'x' \(it lists: SmolLM2"):
        OpenAIEngine(server_url, ClientOptions(model="x")).facts  # noqa: B018


class _Broken(BaseHTTPRequestHandler):
    """Answers a chat with one piece, then an error event."""

    def do_POST(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b'data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n')
        self.wfile.write(b'data: {"error":{"message":"out of memory","code":500}}\n\n')

    def log_message(self, *args):
        pass


def test_an_answer_that_breaks_off_is_an_error():
    server = HTTPServer(("127.0.0.1", 0), _Broken)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    stream = OpenAIEngine(f"http://127.0.0.1:{server.server_port}", ClientOptions(model="m")).chat(
        QUESTION, GREEDY
    )
    assert next(stream) == "Hel"
    with pytest.raises(EngineError, match="broke off the answer: out of memory"):
        next(stream)
    thread.join()
    server.server_close()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
