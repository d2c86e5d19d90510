"""Templates that come with models from anywhere: what they write, and what they may cost."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import wf_formats.chat_template
from wf_formats.chat_template import (
    RESERVED_VARIABLES,
    ChatTemplate,
    ChatTemplateError,
    TemplateTooCostlyError,
)
from wf_formats.chat_template.process import Renderer

TALK = [{"role": "user", "content": "Hi"}]
DOUBLING = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"


def doubling(start, step, end="{{ ns.x | length }}"):
    return DOUBLING.replace("START", start).replace("STEP", step) + end


COSTLY = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "product of a string": "{{ 'a' * 10 ** 10 }}",
    "product of a list": "{{ ([0] * 10 ** 10) | length }}",
    "power": "{{ (10 ** (10 ** 10)) > 1 }}",
    "power of powers": doubling("3", "ns.x ** 3", "{{ ns.x > 1 }}"),
    "center": "{{ 'a'.center(10 ** 11) }}",
    "center filter": "{{ 'a' | center(10 ** 11) }}",
    "zfill": "{{ 'a'.zfill(10 ** 11) }}",
    "expandtabs": "{{ '\t'.expandtabs(2 ** 30) }}",
    "format width": "{{ '%099999999999d' | format(1) }}",
    "str.format width": "{{ '{:>9999999999}'.format(1) }}",
    "indent": "{{ ('a\n' * 99999) | indent(10 ** 6) }}",
    "json indent": "{{ [[1]] | tojson(indent=10 ** 10) }}",
    "join": "{{ range(99999) | join('a' * 99999) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "translate": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "to_bytes": "{{ (5).to_bytes(10 ** 10, 'big') | length }}",
    "batch": "{{ [1] | batch(10 ** 10, 'x') | list | length }}",
    "lipsum": "{{ lipsum(n=10 ** 7) }}",
    "doubling by ~": doubling("'ab'", "ns.x ~ ns.x"),
    "doubling by +": doubling("'ab'", "ns.x + ns.x"),
    "doubling lists": doubling("[1]", "ns.x + ns.x"),
    "nested lists that print": doubling("[1]", "[ns.x, ns.x]", "{{ ns.x }}"),
    "nested lists as JSON": doubling("[1]", "[ns.x, ns.x]", "{{ ns.x | tojson }}"),
    "nested tuples as a key": doubling("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1} | length }}"),
    "doubling blocks": "{% set x %}ab{% endset %}"
    + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60
    + "{{ x | length }}",
    "macro without end": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "macros that double": "{% macro f(n) %}{% if n %}{{ f(n - 1) * 2 }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "long output": "{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}",
    "deep nesting": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "sums of lists": "{{ ([[1] * 9999] * 9999) | sum(start=[]) | length }}",
}


QUICK = [
    "nested loops",
    "product of a string",
    "power",
    "center",
    "format width",
    "doubling by ~",
    "nested lists that print",
    "macro without end",
    "deep nesting",
]


@pytest.fixture(scope="module", autouse=True)
def renderer():
    """One with less time than usual."""
    made = Renderer(computing_s=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wf_formats.chat_template, "RENDERER", made)
        yield made
    made.close()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COSTLY]
)
def test_what_costs_too_much_is_refused_when_it_is_loaded(name):
    """Whatever the trick, it is over in seconds, and this process has not grown."""
    before, start_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ChatTemplateError, match="the chat template") as error:
        ChatTemplate(COSTLY[name], {})
    assert len(str(error.value)) < 1200
    assert time.monotonic() - start_s < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
    assert ChatTemplate("{{ messages[0].content }}", {}).render(TALK) == "Hi"


@pytest.mark.parametrize("kind", ["nested loops", "product of a string", "doubling by ~"])
def test_what_costs_too_much_only_later_is_refused_then(kind):
    template = ChatTemplate("{% if messages[0].content == 'go' %}" + COSTLY[kind] + "{% endif %}ok", {})
    assert template.render(TALK) == "ok"
    with pytest.raises(TemplateTooCostlyError):
        template.render([{"role": "user", "content": "go"}])
    assert template.render(TALK) == "ok"


@pytest.mark.parametrize("text", ["\\ud800", "\\udfff", "a\\udc80b"])
def test_half_a_surrogate_pair_is_refused(text):
    template = ChatTemplate("{{ '" + text + "' }}", {})
    with pytest.raises(ChatTemplateError, match="half a surrogate pair"):
        template.render(TALK)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        *(
            (source, r"has a number beyond those of floating point \(1\.8e308\)")
            for source in (
                "{% set x = 1e999 %}{{ x }}",
                "{% set x = -1e999 %}{{ x }}",
                "{% set x = [1, [2e999]] %}{{ x }}",
                "{% set x = 1e999 - 1e999 %}{{ x }}",
                "{{ 1e999 | int }}",
            )
        ),
        ("{{ cycler() }}", r"refuses these messages: at least one item .*\(RuntimeError\)"),
        ("{{ 1 // 0 }}", r"by zero \(ZeroDivisionError\)"),
        ("{{ strftime_now(5) }}", r"must be str, not int \(TypeError\)"),
    ],
)
def test_what_a_template_fails_at_is_told_and_its_process_goes_on(source, message, renderer):
    template = ChatTemplate(source, {})
    worker = renderer._worker
    with pytest.raises(ChatTemplateError, match=message):
        template.render(TALK)
    assert renderer._worker is worker
    assert worker.poll() is None


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\x9b2J", r"\x9b2J"),
        ("left \u202e right", r"left \u202e right"),
        ("ä 😀 it's \\", "ä 😀 it's \\"),
    ],
)
def test_the_words_of_a_template_do_not_steer_a_terminal(words, shown):
    template = ChatTemplate("{{ raise_exception(messages[0].content) }}", {})
    with pytest.raises(ChatTemplateError) as error:
        template.render([{"role": "user", "content": words}])
    assert str(error.value).endswith(f"refuses these messages: {shown}")
    with pytest.raises(ChatTemplateError, match="is damaged") as error:
        ChatTemplate("{{ 1 | '" + words.replace("'", "") + "' }}", {})
    assert str(error.value).isprintable()


def test_what_is_rendered_can_be_stopped(renderer):
    """By a program that ends, without waiting for its limit of time."""
    template = ChatTemplate("{{ messages[0].content }}", {})
    slow = ChatTemplate("{% if messages[0].content == 'go' %}" + COSTLY["nested loops"] + "{% endif %}", {})
    found = []

    def ask():
        with pytest.raises(ChatTemplateError, match="its process was killed") as error:
            slow.render([{"role": "user", "content": "go"}])
        found.append(error)

    renderer._computing_s = 30.0  # of the next worker
    renderer.close()
    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.5)
    start_s = time.monotonic()
    wf_formats.chat_template.stop_rendering()
    thread.join()
    assert time.monotonic() - start_s < 2
    assert found
    renderer._computing_s = 0.2
    assert template.render(TALK) == "Hi"


def test_what_refuses_the_trial_is_loaded():
    template = ChatTemplate("{% if messages | length == 1 %}{{ raise_exception('more') }}{% endif %}fine", {})
    assert template.render([*TALK, *TALK]) == "fine"
    with pytest.raises(ChatTemplateError, match="refuses these messages: more"):
        template.render(TALK)


def test_a_long_conversation_is_within_the_limits():
    template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}", {})
    talk = [{"role": "user", "content": f"{i} ä😀 " * 100} for i in range(6000)]
    expected = "".join(f"<user>{one['content'].strip()}\n" for one in talk)
    assert len(expected) > 4_000_000
    assert template.render(talk) == expected


def test_threads_take_turns():
    template = ChatTemplate("{{ messages[0].content }}", {})
    wrong = []

    def ask(number):
        for i in range(50):
            text = f"{number} {i}"
            if template.render([{"role": "user", "content": text}]) != text:
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_worker_that_was_killed_is_started_again(renderer):
    template = ChatTemplate("{{ messages[0].content }}", {})
    os.kill(renderer._worker.pid, signal.SIGKILL)
    renderer._worker.wait()
    assert template.render(TALK) == "Hi"


def test_the_worker_ends_with_its_process():
    code = (
        "import os\n"
        "from wf_formats.chat_template import ChatTemplate\n"
        "from wf_formats.chat_template.process import RENDERER\n"
        "ChatTemplate('x', {})\n"
        "print(RENDERER._worker.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        pid = int(child.stdout.readline())
    deadline_s = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < deadline_s, "the worker outlives its process"
        time.sleep(0.02)


def is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()  # nobody may wait for it here
    except FileNotFoundError:
        return False


def test_a_module_in_the_working_folder_does_not_get_in(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert ChatTemplate("{{ messages[0].content }}", {}).render(TALK) == "Hi"


def test_variables_of_a_request():
    """What Qwen 3's templates ask for, values of any kind, and names that Jinja's own functions have."""
    template = ChatTemplate(
        "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
        "{{ reasoning_effort | default('medium') }}{{ more | tojson }}{{ bos_token }}",
        {"bos_token": "<s>"},
    )
    assert template.render(TALK, True, {"more": [1, {"a": None}]}) == 'medium[1, {"a": null}]<s>'
    low = {"enable_thinking": False, "reasoning_effort": "low", "more": 0, "self": 1, "context": 2, "": 3}
    assert template.render(TALK, True, low) == "<think></think>low0<s>"


@pytest.mark.parametrize("name", sorted(RESERVED_VARIABLES))
def test_variables_in_the_place_of_the_templates_own_are_refused(name: str):
    template = ChatTemplate("{{ messages[0].content }}", {})
    with pytest.raises(ChatTemplateError, match=f"^{name} is no variable to be set"):
        template.render(TALK, True, {"other": 1, name: "x"})


def test_a_template_that_was_tried_before_is_not_tried_again(monkeypatch):
    renderer = Renderer()
    monkeypatch.setattr(wf_formats.chat_template, "RENDERER", renderer)
    template = ChatTemplate("{{ messages[0].content }}{{ 'a' * 10 ** (messages | length * 5) }}", {}, True)
    ready = renderer._worker
    assert ready is not None
    with pytest.raises(TemplateTooCostlyError):  # on use its limits are what they were
        template.render(TALK * 4)
    assert renderer._worker is ready
    assert ChatTemplate("{{ messages[0].content }}", {}, True).render(TALK) == "Hi"
    renderer.close()
