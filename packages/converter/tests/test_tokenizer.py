"""The exported tokenizer numbers text in llama.cpp as the checkpoint's does in transformers."""

import gzip
import json
import shutil
import urllib.request
from pathlib import Path

import pytest

import bitnet_arch
from wf_converter.errors import ExportError
from wf_converter.gguf_export import prepare_gguf
from wrinklefree_inference.llamacpp.server import start_server
from wrinklefree_inference.options import ListenOptions, LlamaCppServerOptions, ServedEngineOptions

ADD_BOS = ("llama-bpe", "tekken")
TRICKY = [
    "In 2024, 12345 apples cost 3.50!",
    "def f(x):\n    return x  # don't\n\n\nprint(f(007))",
    "I'LL we're they've  two  spaces\ttab\r\nend   ",
    "naïve café 日本語 🙂 ²³ ½",
    "<|im_start|>user\nhello<|im_end|>\n",
    "HTTPServer OpenAI iPhone a/b//c ǅ e\u0301E\u0301x",
    "Don't we'LL HTTPServer's ПриветМир naïveÉtat 1234567 a//\n",
]


def test_what_has_no_equal_is_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("llama-group64"), tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match=r"no tokenizer\.json"):
        prepare_gguf(folder)


def real_texts(shared_data: Path) -> list[str]:
    """The beginnings of a few documents of every data set."""
    found = []
    for path in sorted(shared_data.rglob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found += [
                json.loads(line).get("text", line)[:2000] for line, _ in zip(file, range(4), strict=False)
            ]
    assert found
    return found


def post(address: str, path: str, payload: dict) -> dict:
    data = json.dumps(payload).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "dbrx", "gpt-4o"])
def test_llamacpp_splits_text_alike(checkpoint, tiny_tokenizer, tmp_path, shared_data, kind):
    tokenizer = tiny_tokenizer(kind, add_bos=kind in ADD_BOS)
    folder = tmp_path / "checkpoint"
    model = bitnet_arch.load_checkpoint(checkpoint("llama-group64")).model
    bitnet_arch.save_checkpoint(model, tokenizer, folder, {"stage": "stage2"})
    export = prepare_gguf(folder)
    assert export.tokenizer.pre == kind
    export.write(tmp_path / "model.gguf")
    engine = ServedEngineOptions(64, 1)
    server = start_server(LlamaCppServerOptions(tmp_path / "model.gguf", ListenOptions(port=0), engine))
    for text in [*TRICKY, *real_texts(shared_data)]:
        payload = {"content": text, "add_special": True, "parse_special": True}
        found = post(server.listening_address, "/tokenize", payload)["tokens"]
        assert found == tokenizer(text)["input_ids"], text
    messages = [{"role": "user", "content": "hello"}]
    prompt = post(server.listening_address, "/apply-template", {"messages": messages})["prompt"]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if kind in ADD_BOS:  # llama.cpp takes a leading bos away here and adds it when it tokenizes
        expected = expected.removeprefix(tokenizer.bos_token)
    assert prompt == expected
