"""Command lines in pages against the command lines that there are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from wf_deployer.doctor.children import ask
from wf_deployer.doctor.pages.checking import judge_pages
from wf_deployer.doctor.pages.judging import problems
from wf_deployer.doctor.pages.markdown import command_lines
from wf_deployer.doctor.pages.source import surface_of_source
from wf_deployer.doctor.pages.surface import Option, Surface

PAGE = """# Use

Run `wf eval --kind
native` or `the wf`.

```bash
$ WF_API_KEY=x uv run wf serve --model m.gguf \\
    --port 8080   # a comment
uv run --package wrinklefree python packages/a/scripts/b.py x=1 | tee log && wf runs > out.txt
```

```python
wf.no_shell()
```

| `wf chat --model m` | table |

## Removed

- `wf gone`
"""


def test_command_lines_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = [(line.line, " ".join(line.words)) for line in command_lines(page)]
    assert found == [
        (3, "wf eval --kind native"),
        (3, "the wf"),
        (7, "wf serve --model m.gguf --port 8080"),
        (9, "python packages/a/scripts/b.py x=1"),
        (9, "tee log"),
        (9, "wf runs"),
        (16, "wf chat --model m"),
    ]


SURFACE = Surface(
    {
        "--model": Option(1),
        "-s": Option(1),
        "--verify": Option(0),
        "--type": Option(1, ("q8_0", "auto")),
        "--many": Option(None),
    },
    most_arguments=1,
)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("--model m.gguf --verify x", None),
        ("--model=m.gguf -s2 --type q8_0", None),
        ("--type TYPE --model $MODEL", None),
        ("--model --verify", None),
        ("--many a b c -s 1", None),
        ("FILES... x", None),
        ("-- --odd", None),
        ("--modell m", "there is no --modell"),
        ("--verify --type q9", "--type is one of q8_0, auto, not 'q9'"),
        ("--type=q9", "--type is one of q8_0, auto"),
        ("a b", "2 arguments, it takes 1"),
        ("-x", "there is no -x"),
    ],
)
def test_judging(line: str, wrong: str | None) -> None:
    found = list(problems(SURFACE, line.split()))
    assert (found == []) if wrong is None else found[0].startswith(wrong)


def test_groups() -> None:
    group = Surface({"--help": Option(0)}, None, {"run": SURFACE})
    assert list(problems(group, ["run", "--verify"])) == []
    assert list(problems(group, ["--help"])) == list(problems(group, ["COMMAND"])) == []
    assert list(problems(group, ["walk"])) == ["there is no walk; there is run"]
    assert next(problems(group, ["run", "--x"])).startswith("there is no --x")


GOOD_LINES = """
uv run wf eval --model-path m.gguf --kind native
wf train -s 2 -e mine training.max_steps=3
wf train -s 1.5 --foreground
wf logs -f
wf doctor --strict
uv run python packages/demo/scripts/tool.py --fast
uv run python packages/demo/benchmarks/speed.py --rounds 3
uv run pytest packages/demo/tests/test_a.py::test_b
python -m wf_converter.inspect model.gguf
some --other program
"""
BAD_LINES = {
    "wf evaluate": "there is no evaluate",
    "wf eval --modelpath m": "there is no --modelpath",
    "wf eval --kind magic": "--kind is one of",
    "wf logs --fellow": "there is no --fellow",
    "wf runs one two": "2 arguments, it takes none",
    "wf train -s 2 training.maxsteps=3": "Unknown key 'training.maxsteps'",
    "wf train -s 2 -e x --nope": "there is no --nope",
    "python packages/demo/scripts/tool.py --slow": "there is no --slow",
    "python packages/demo/benchmarks/speed.py --loops 3": "there is no --loops",
    "uv run python packages/demo/scripts/gone.py": "there is no packages/demo/scripts/gone.py",
    "uv run pytest packages/demo/tests/test_gone.py": "there is no packages/demo/tests/test_gone.py",
    "python -m wf_converter.inspect --deep x": "there is no --deep",
}
TOOL = """import argparse
def parser():
    built = argparse.ArgumentParser()
    for name in ("--fast", "--far"):
        built.add_argument(name, action="store_true")
    return built
parser().parse_args()
raise SystemExit("ran")
"""
SPEED = """import a_module_that_is_not_installed
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=1)
"""


def test_pages_of_a_checkout(tmp_path: Path) -> None:
    for name, text in {"scripts/tool.py": TOOL, "benchmarks/speed.py": SPEED, "tests/test_a.py": ""}.items():
        file = tmp_path / "packages" / "demo" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "README.md").write_text(f"```\n{GOOD_LINES}```\n")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "bad.md").write_text("\n\n".join(f"- `{line}`" for line in BAD_LINES))
    (docs / "no_text.md").write_bytes(b"\xff")
    judgement = judge_pages(tmp_path, Path(sys.executable))
    told = {problem.text: str(problem) for problem in judgement.problems}
    assert "no UTF-8 text" in told.pop("")
    assert set(told) == set(BAD_LINES)
    for line, reason in BAD_LINES.items():
        assert reason in told[line]
    assert told["wf evaluate"].startswith("docs/bad.md:1: ")


def test_a_program_that_would_run_is_not_asked_to_compose(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    script = tmp_path / "tool.py"
    script.write_text(
        f"import argparse\nargparse.ArgumentParser().parse_known_args()\nopen({str(mark)!r}, 'w')\n"
    )
    question = {"programs": [["tool.py"]], "configurations": [["tool.py", "--cfg", "a=1"]]}
    answers = ask(Path(sys.executable), "surface", question, cwd=tmp_path)
    assert answers["configurations"] == [""]
    assert "-h" in answers["programs"][0]["options"]
    assert not mark.exists()


@pytest.mark.parametrize(
    "source",
    [
        "import argparse\np = argparse.ArgumentParser()\np.add_argument(NAME)\n",
        "import argparse\np = argparse.ArgumentParser()\np.add_subparsers()\n",
        "print('no parser')\n",
        "def broken(:\n",
    ],
)
def test_sources_that_are_not_written_out(source: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(source)
    assert surface_of_source(tmp_path / "script.py", tmp_path) is None


@pytest.mark.slow
def test_sources_say_what_their_parsers_say(workspace_root: Path) -> None:
    """Choices that stand in a list elsewhere apart."""
    scripts = [
        path.relative_to(workspace_root)
        for folder in ("scripts", "benchmarks")
        for path in sorted(workspace_root.glob(f"packages/*/{folder}/*.py"))
    ]
    of_source = {path: surface_of_source(workspace_root / path, workspace_root) for path in scripts}
    read = {path: surface for path, surface in of_source.items() if surface is not None}
    assert len(read) > 10
    question = {"programs": [[str(path)] for path in read], "configurations": []}
    answers = ask(Path(sys.executable), "surface", question, cwd=workspace_root)["programs"]
    for (path, surface), answer in zip(read.items(), answers, strict=True):
        assert "error" not in answer, (path, json.dumps(answer))
        asked = Surface.from_json(answer)
        assert surface.most_arguments == asked.most_arguments, path
        assert {name: option.values for name, option in surface.options.items()} == {
            name: option.values for name, option in asked.options.items()
        }, path
        for name, option in surface.options.items():
            assert option.choices in ((), asked.options[name].choices), (path, name)
