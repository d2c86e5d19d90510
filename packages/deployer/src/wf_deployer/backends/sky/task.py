"""A task of SkyPilot and its YAML. Values are checked here: SkyPilot's client passes on some that its server
refuses.

Keys and their meaning: docs.skypilot.co, "SkyPilot YAML".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PLACES = {
    "infra",
    "accelerators",
    "instance_type",
    "cpus",
    "use_spot",
    "autostop",
    "job_recovery",
    "labels",
}


@dataclass(frozen=True)
class SkyTask:
    """What is launched.

    Attributes:
        name: Unique; also the cluster's.
        workdir: Folder here whose files the machines get; absolute.
        places: Resources, any of which will do.
        run: Bash, run on each node in the copy of `workdir`.
        envs: Variables with their values.
        secrets: Names of variables whose values are those of `wf`'s environment.
        service: How SkyServe keeps copies of it, if it is a service.
    """

    name: str
    num_nodes: int
    workdir: str
    places: tuple[Mapping[str, Any], ...]
    run: str
    envs: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    service: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert _NAME.fullmatch(self.name), self.name
        assert self.workdir.startswith("/"), self.workdir
        assert self.places
        for place in self.places:
            assert place.keys() <= _PLACES, place
        for name in (*self.envs, *self.secrets):
            assert _VARIABLE.fullmatch(name), name
        assert not set(self.envs) & set(self.secrets)

    def to_yaml(self) -> str:
        places = [dict(place) for place in self.places]
        values: dict[str, Any] = {
            "name": self.name,
            "num_nodes": self.num_nodes,
            "workdir": self.workdir,
            "resources": places[0] if len(places) == 1 else {"any_of": places},
            "envs": dict(self.envs),
            "secrets": dict.fromkeys(self.secrets),
            "service": dict(self.service),
            "run": self.run,
        }
        kept = {key: value for key, value in values.items() if value not in ({}, None)}
        return yaml.dump(kept, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


class _Dumper(yaml.SafeDumper):
    """Scripts as blocks; no anchors for values that occur twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
