"""The exported tokenizer numbers text in llama.cpp as the checkpoint's does in transformers."""

import json
import urllib.request

import pytest

import bitnet_arch
from wf_converter.errors import ExportError
from wf_converter.gguf_export import prepare_gguf
from wf_converter.tokenizer import detect_pre, read_tokenizer
from wrinklefree_inference.llamacpp.server import start_server
from wrinklefree_inference.options import ListenOptions, LlamaCppServerOptions, ServedEngineOptions

TRICKY = [
    "In 2024, 12345 apples cost 3.50!",
    "def f(x):\n    return x  # don't\n\n\nprint(f(007))",
    "I'LL we're they've  two  spaces\ttab\r\nend   ",
    "naïve café 日本語 🙂 ²³ ½",
    "<|im_start|>user\nhello<|im_end|>\n",
]


def post(address: str, path: str, payload: dict) -> dict:
    data = json.dumps(payload).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_llamacpp_splits_text_alike(checkpoint, tiny_tokenizer, tmp_path, kind):
    tokenizer = tiny_tokenizer(kind, add_bos=kind == "llama-bpe")
    folder = tmp_path / "checkpoint"
    model = bitnet_arch.load_checkpoint(checkpoint("llama-group64")).model
    bitnet_arch.save_checkpoint(model, tokenizer, folder, {"stage": "stage2"})
    export = prepare_gguf(folder)
    assert export.tokenizer.pre == kind
    export.write(tmp_path / "model.gguf")
    engine = ServedEngineOptions(64, 1)
    server = start_server(LlamaCppServerOptions(tmp_path / "model.gguf", ListenOptions(port=0), engine))
    for text in TRICKY:
        payload = {"content": text, "add_special": True, "parse_special": True}
        found = post(server.listening_address, "/tokenize", payload)["tokens"]
        assert found == tokenizer(text)["input_ids"], text
    messages = [{"role": "user", "content": "hello"}]
    prompt = post(server.listening_address, "/apply-template", {"messages": messages})["prompt"]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if kind == "llama-bpe":  # llama.cpp takes a leading bos away here and adds it when it tokenizes
        expected = expected.removeprefix(tokenizer.bos_token)
    assert prompt == expected


def saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return folder


def test_special_ids_types_and_padding(tiny_tokenizer, tmp_path):
    found = read_tokenizer(saved(tiny_tokenizer("smollm"), tmp_path), vocab_size=520)
    assert found.special_ids == {"bos": 1, "eos": 2, "unk": 0, "pad": 2}
    assert (found.add_bos, found.add_eos) == (False, False)
    assert found.token_types[:4] == [3, 3, 3, 1]
    assert found.tokens[512:] == [f"[PAD{i}]" for i in range(512, 520)]
    assert set(found.token_types[512:]) == {5}
    assert "im_start" in (found.chat_template or "")


def test_more_tokens_than_embeddings_are_refused(tiny_tokenizer, tmp_path):
    with pytest.raises(ExportError, match="the embedding matrix only 500 rows"):
        read_tokenizer(saved(tiny_tokenizer("smollm"), tmp_path), vocab_size=500)


def test_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"no tokenizer\.json"):
        read_tokenizer(tmp_path, 512)


def edited(tiny_tokenizer, tmp_path, change):
    folder = saved(tiny_tokenizer("smollm"), tmp_path)
    spec = json.loads((folder / "tokenizer.json").read_text())
    change(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["model"].update(byte_fallback=True), "BPE model with byte fallback"),
        (lambda s: s.update(normalizer={"type": "Lowercase"}), "normalizer Lowercase"),
        (
            lambda s: s["pre_tokenizer"]["pretokenizers"][0].update(individual_digits=False),
            r"tokenizer\.ggml\.pre: .*Digits.*known: gpt-2",
        ),
        (lambda s: s.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
    ],
)
def test_tokenizers_without_an_equal_are_refused(tiny_tokenizer, tmp_path, change, message):
    with pytest.raises(ExportError, match=message):
        read_tokenizer(edited(tiny_tokenizer, tmp_path, change), 512)


def test_post_processors_beyond_bos_and_eos_are_refused(tiny_tokenizer, tmp_path):
    def add_foreign_prefix(spec):
        spec["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
            },
        }

    with pytest.raises(ExportError, match="GGUF can only add bos and eos"):
        read_tokenizer(edited(tiny_tokenizer, tmp_path, add_foreign_prefix), 512)


def test_unknown_pre_tokenizer_shows_its_definition():
    with pytest.raises(ExportError, match="Metaspace"):
        detect_pre({"pre_tokenizer": {"type": "Metaspace"}})
