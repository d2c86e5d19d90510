from __future__ import annotations

import pytest

from wf_formats.secrets import REDACTED, is_secret_name, redacted, redacted_arguments, redacted_value

SECRET = "Zx81qLmN0pRs7TuV2wXy"


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "hf_token",
        "HF_TOKEN",
        "a.api_key",
        "--api-key",
        "WANDB_API_KEY",
        "accessToken",
        "db.password",
    ],
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)
    assert redacted_arguments([f"{name}={SECRET}"]) == [f"{name}={REDACTED}"]


@pytest.mark.parametrize(
    "name", ["max_tokens", "eos_token", "keyboard", "training.max_steps", "model.name", ""]
)
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        f"hf_{SECRET}",
        f"sk-proj-{SECRET}",
        f"ghp_{SECRET}",
        f"https://me:{SECRET}@host/a",
        f"https://{SECRET}@host/a",
        f"https://host/a?b=1&access_token={SECRET}",
        f"https://host/a?X-Amz-Signature={SECRET}&c=2",
        f"Authorization: Bearer {SECRET}",
        f"eyJ{SECRET}.eyJ{SECRET}.{SECRET}",
        f"data.sources=[{{kind: hub, location: 'https://me:{SECRET}@host/a'}}]",
    ],
)
def test_secrets_in_text(text: str) -> None:
    for shown in (redacted(text), redacted_value("location", text), redacted_arguments([text])[0]):
        assert SECRET not in shown
        assert REDACTED in shown


@pytest.mark.parametrize(
    "text",
    [
        "model.name=/data/hf_models/it's=1",
        "https://host/a?b=1&c=2",
        "training.max_tokens=100000",
        "9fce6bd31ad6e0f6a7a0a1e3bd6d5a1f6c0b7d11",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redacted(text) == text
    assert redacted_arguments([text]) == [text]


def test_options_and_their_values() -> None:
    line = [
        "serve",
        "--api-key",
        SECRET,
        "--port",
        "80",
        "--token",
        "--model",
        "m.gguf",
        f"+x.token={SECRET}",
    ]
    shown = [
        "serve",
        "--api-key",
        REDACTED,
        "--port",
        "80",
        "--token",
        "--model",
        "m.gguf",
        f"+x.token={REDACTED}",
    ]
    assert redacted_arguments(line) == shown


def test_nested_values() -> None:
    value = {
        "sources": [{"location": f"https://a:{SECRET}@b", "api_key": SECRET, "weight": 1.0}],
        "token": None,
    }
    shown = {
        "sources": [{"location": f"https://{REDACTED}@b", "api_key": REDACTED, "weight": 1.0}],
        "token": None,
    }
    assert redacted_value("data", value) == shown
