"""What is left of the text of others on a terminal."""

import pytest

from wf_formats.printable import legible, printable


@pytest.mark.parametrize(
    "steering",
    [
        "\x1b[2J",
        "\x1b]0;title\x07",
        "\x9b31m",
        "\x85",
        "\x7f",
        "\r",
        "\x08",
        "\x0b",
        "\u202e",
        "\u2066",
        "\ud800",
    ],
)
@pytest.mark.parametrize("shown", [printable, legible])
def test_nothing_steers_a_terminal(shown, steering):
    text = shown(f"a{steering}b")
    assert text.isprintable()
    assert text == "a" + steering.encode("unicode_escape").decode() + "b"


def test_lines_are_for_whole_texts():
    text = "one\n\ttwo\u00a0\u3000 é 👩\u200d🚀 \u200fשלום"
    assert legible(text) == text
    assert printable("a\n\tb") == r"a\n\tb"


def test_long_names_are_cut():
    assert printable("x" * 301) == "x" * 300 + "…"
    assert printable("\x1b" * 400, 8) == r"\x1b\x1b" + "…"
    assert printable("x" * 301, None) == "x" * 301
