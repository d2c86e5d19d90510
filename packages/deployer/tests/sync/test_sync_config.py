"""`.sync.conf`: what it means, and one line with file, line and fix for everything that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from wf_deployer.sync.config import find_config, read_config
from wf_deployer.sync.path_fix import PathFix, parse_path_fix
from wf_formats.errors import RequestError

HOST = "[desktop]\nhost=box\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / ".sync.conf"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_presets_projects_and_repeated_fixes(tmp_path: Path) -> None:
    (tmp_path / "my key").touch()
    file = write(
        tmp_path,
        "# machines\n[project]\nuv_projects=. packages/a  .\npath_fix=x.toml:/a=>/b\n"
        "path_fix = x.toml:/c=>/d=e\n; more\n[desktop]\nhost = me@10.0.0.2\ndir=~/my work;x\nport=2222\n"
        "key=my key\n\n[gpu-1]\r\nhost=::1\r\n",
    )
    config = read_config(file)
    assert config.uv_projects == (".", "packages/a")
    assert [(fix.file, fix.old, fix.new) for fix in config.path_fixes] == [
        ("x.toml", "/a", "/b"),
        ("x.toml", "/c", "/d=e"),
    ]
    desktop, gpu = config.presets.values()
    assert (desktop.host, desktop.dir, desktop.port) == ("me@10.0.0.2", "~/my work;x", 2222)
    assert desktop.key == tmp_path / "my key"
    assert (gpu.name, gpu.host, gpu.dir, gpu.port, gpu.key) == (
        "gpu-1",
        "::1",
        f"~/{tmp_path.name}",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[desktop]\ndir=x\n", 1, "[desktop] has no host; add host="),
        (HOST + "hots=x\n", 3, "'hots' is no key of [desktop]; did you mean host?"),
        (HOST + "zzz=1\n", 3, "known are host, dir, port, key"),
        (
            HOST + "[project]\nexclude=x\n",
            4,
            "'exclude' is no key of [project]; known are uv_projects, path_fix",
        ),
        (HOST + "host=b\n", 3, "host was given in"),
        (HOST + HOST, 3, "[desktop] is there twice"),
        ("host=x\n" + HOST, 1, "stands before any [section]"),
        (HOST + "port\n", 3, "'port' is neither [section] nor key=value"),
        (HOST + "dir=\n", 3, "'dir' has no value"),
        (HOST + "dir='x'\n", 3, "has quotes"),
        (HOST + "[a b]\n", 3, "'[a b]' is not [name]"),
        (HOST + "[-x]\n", 3, "'[-x]' is not [name]"),
        (HOST + "port=0\n", 3, "port='0' is not a number from 1 to 65535"),
        (HOST + "port=65536\n", 3, "is not a number"),
        (HOST + "port=٣\n", 3, "is not a number"),
        (HOST + "dir=$HOME/x\n", 3, "taken literally"),
        (HOST + "dir=a\x1b[2Jb\n", 3, "control characters"),
        (HOST + "key=nowhere\n", 3, "there is no key file"),
        (HOST + "key=~nobody-there/x\n", 3, "there is no key file"),
        (HOST + "key=%d/x\n", 3, "holds % or $"),
        ("[d]\nhost=-oProxyCommand=touch /tmp/x\n", 2, "is no host"),
        ("[d]\nhost=a;b\n", 2, "is no host"),
        ("[d]\nhost=a b\n", 2, "is no host"),
        ("[d]\nhost=me@-x\n", 2, "is no host"),
        ("[d]\nhost=$(x)\n", 2, "is no host"),
        ("[d]\nhost=box:/data\n", 2, "is no host"),
        (HOST + "[project]\nuv_projects=../x\n", 4, "'../x' is not a plain path"),
        (HOST + "[project]\nuv_projects=a /x\n", 4, "'/x' is not a plain path"),
        (HOST + "[project]\npath_fix=x.toml\n", 4, "is not FILE:OLD=>NEW"),
        (HOST + "[project]\npath_fix=x.toml:/a->/b\n", 4, "is not FILE:OLD=>NEW"),
        (HOST + "[project]\npath_fix=x.toml:=>/b\n", 4, "is not FILE:OLD=>NEW"),
        (HOST + "[project]\npath_fix=x.toml:/a=>\n", 4, "is not FILE:OLD=>NEW"),
        (HOST + "[project]\npath_fix=x.toml:/a=>/b=>/c\n", 4, "has two =>"),
        (HOST + "[project]\npath_fix=x.toml:/a=>/a\n", 4, "changes nothing"),
        (HOST + "[project]\npath_fix=../x.toml:/a=>/b\n", 4, "not a plain path inside the checkout"),
        (b"[d]\nhost=\xff\n", 2, "is not UTF-8"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str | bytes, line: int, words: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(RequestError) as caught:
        read_config(file)
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_without_presets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no preset; add one"):
        read_config(write(tmp_path, "[project]\nuv_projects=.\n"))


def test_it_is_found_from_below_and_missed_by_name(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"copy \.sync\.conf\.example"):
        find_config(tmp_path / "a")
    write(tmp_path, HOST)
    assert find_config(tmp_path / "a" / "b").root == tmp_path.resolve()


def test_the_example_is_a_complete_one(workspace_root: Path, tmp_path: Path) -> None:
    text = (workspace_root / ".sync.conf.example").read_text()
    config = read_config(write(tmp_path, text))
    assert list(config.presets) == ["desktop"]
    settings = re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)  # words have a space after #
    (tmp_path / "my key").touch()
    config = read_config(write(tmp_path, settings.replace("~/.ssh/desktop", "my key")))
    assert config.presets.keys() == {"desktop", "gpu"}
    assert config.path_fixes
    assert config.uv_projects


@pytest.mark.parametrize("arguments", [("sync", "nothing"), ("sync-ssh", "nothing"), ("status", "nothing")])
def test_an_unknown_preset_is_refused(
    arguments: tuple[str, ...], checkout: Path, gcd: Callable[..., Result]
) -> None:
    write(checkout, HOST + "[laptop]\nhost=l\n")
    result = gcd(*arguments)
    assert result.exit_code == 2
    assert "'nothing' is not a preset of" in result.output
    assert "there is desktop, laptop" in result.output
    assert result.output.count("\n") == 1


FIX = PathFix("f", "/home/me/a", "/data", "x:1")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/home/me/a", "/data"),
        ("'/home/me/a/x'", "'/data/x'"),
        ("file:///home/me/a;/home/me/a.", "file:///data;/data."),
        ("/home/me/ab /home/me/a-b /home/me/a.b /mnt/home/me/a /home/me/aé /home/me/a", None),
    ],
)
def test_path_fix_changes_whole_paths(before: str, after: str | None) -> None:
    expected = before[: -len("/home/me/a")] + "/data" if after is None else after
    assert FIX.apply(before.encode()).decode() == expected


def test_path_fix_takes_relative_paths_and_what_looks_like_a_pattern() -> None:
    fix = parse_path_fix(r"f:../libs => \1\g<0>.*", "x:1")
    assert fix.apply(b'"../libs/a" "../../libs" \xff\x00') == b'"\\1\\g<0>.*/a" "../../libs" \xff\x00'


def test_path_fix_without_effect_is_refused() -> None:
    with pytest.raises(RequestError, match=r"x:1: path_fix: f does not hold the path '/home/me/a'"):
        FIX.apply(b"/home/me/abc")
