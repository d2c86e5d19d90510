"""`wf plan`: the command line, and its figures beside what was measured and what models' owners state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from wf_formats.models import open_model
from wf_formats.packaged import PACKAGED_REPOSITORY
from wrinklefree.compose.composing import compose_config
from wrinklefree.compose.schemas import group_files
from wrinklefree.config.training import Precision
from wrinklefree.planning.machines import GPUS
from wrinklefree.planning.main import main
from wrinklefree.planning.published import PUBLISHED
from wrinklefree.planning.shapes import shape_of
from wrinklefree.planning.work import work

STATED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1_711_376_384,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B": 4_022_468_096,
}
"""Parameters, as the repositories state them."""


LARGER_TEACHER = [
    "model.teacher.source=hub",
    "model.teacher.name=HuggingFaceTB/SmolLM2-360M-Instruct",
]
SERVER = ["model.teacher.url=http://127.0.0.1:1/v1", "model.teacher.model=any"]
OWN_TEXT = ["training.objectives.on_policy_distill.share=0.5"]


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line that a wrong request ends with."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    return err.strip().splitlines()[-1]


def test_published_shapes_have_as_many_parameters_as_their_owners_state() -> None:
    assert {name: shape_of(name, found, "none").num_parameters for name, found in PUBLISHED.items()} == STATED


def test_the_published_shape_of_the_packaged_model_is_its_files(packaged_gguf: Path) -> None:
    found, read = (
        shape_of("", PUBLISHED[PACKAGED_REPOSITORY], "none").decoder,
        open_model(packaged_gguf).config,
    )
    for name in ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "vocab_size"):
        assert getattr(found, name) == getattr(read, name)


def test_every_preset_can_be_planned_offline() -> None:
    files = [OmegaConf.load(path) for path in group_files("model").values()]
    names = {file.name for file in files if file.source == "hub"}
    assert names <= PUBLISHED.keys()
    assert len(names) > 1


def test_arithmetic_of_a_token_is_that_of_the_products() -> None:
    """SmolLM2-135M, counted by hand: 3 x 2 x (30 x 7 matrices + head) and the scores of half a sequence."""
    shape = shape_of("", PUBLISHED[PACKAGED_REPOSITORY], "group64")
    block = 2 * 576 * 576 + 2 * 192 * 576 + 3 * 576 * 1536
    forward = 2 * (30 * block + 49152 * 576) + 30 * 4 * 576 * 512
    assert work(shape, 1024, False, None).student == 3 * forward
    assert work(shape, 1024, True, None).student == 4 * forward - 2 * 49152 * 576
    assert work(shape, 1024, False, shape).teacher == forward


def test_speed_of_stage_3_on_an_h100_is_near_the_measured_one(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/performance.md: 112,000 tokens a second in bf16. The utilization is of a step without teacher."""
    found = planned(
        capsys, "-m", "smollm2_135m", "-s", "3", "--gpu", "H100", "model.scheme=group64", "--batch", "64"
    )
    assert found["tokens_per_s"] == pytest.approx(112_000, rel=0.10)
    total = found["layouts"][0]["total_bytes"]
    assert total == pytest.approx(43e9, rel=0.10), "measured: 43 GB"


def test_speed_of_stage_3_on_two_cores_is_near_the_measured_one(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/results.md: 270 tokens a second in int8, steps of 16 x 1,024."""
    overrides = ("model.scheme=group64", "training.precision=int8")
    found = planned(capsys, "-m", "smollm2_135m", "-s", "3", "--cpu", "2", *overrides)
    assert found["tokens_per_s"] == pytest.approx(270, rel=0.10)


def test_rows_of_block_diffusion_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Three times the tokens of the blocks, the head once."""
    once, thrice = (
        planned(capsys, "-m", "smollm2_135m", "-s", stage, "--gpu", "H100", "model.scheme=group64")
        for stage in ("2", "4")
    )
    block, head = 2 * 576 * 576 + 2 * 192 * 576 + 3 * 576 * 1536, 2 * 49152 * 576
    blocks = 30 * (2 * block + 4 * 576 * 512)
    expected = (3 * blocks + head) / (blocks + head)
    assert once["tokens_per_s"] / thrice["tokens_per_s"] == pytest.approx(expected, rel=1e-6)
    kept = [found["layouts"][0]["bytes"]["activations"] for found in (once, thrice)]
    assert kept[1] > 2.5 * kept[0]


def test_the_largest_batch_fits_and_one_more_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("-m", "qwen3_0_6b", "--gpu", "L40S:4")
    first = planned(capsys, *arguments)["layouts"]
    assert [(each["distributed"], each["gradient_checkpointing"]) for each in first] == [
        ("ddp", False),
        ("ddp", True),
        ("fsdp", False),
        ("fsdp", True),
    ]
    largest = first[0]["largest_batch_size"]
    at, beyond = (
        planned(capsys, *arguments, "--batch", str(size))["layouts"][0] for size in (largest, largest + 1)
    )
    assert (at["fits"], beyond["fits"]) == (True, False)
    assert first[1]["largest_batch_size"] > largest, "checkpointing leaves room"


def test_fsdp_shards_weights_gradients_and_moments(capsys: pytest.CaptureFixture[str]) -> None:
    ddp, _, fsdp, _ = planned(capsys, "-m", "qwen3_4b", "--gpu", "H100:8")["layouts"]
    for name in ("weights", "gradients", "moments"):
        assert fsdp["bytes"][name] == -(-ddp["bytes"][name] // 8)
    assert fsdp["bytes"]["activations"] == ddp["bytes"]["activations"]
    assert ddp["fits"] is False
    assert fsdp["fits"] is True


def test_the_command_is_one_that_the_trainer_composes(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "-m", "qwen3_4b", "--gpu", "H100:8", "--tokens", "1.5B", "--seq", "2048")
    prefix, *overrides = found["command"].split()[:4], *found["command"].split()[4:]
    assert prefix == ["wf", "train", "-s", "2"]
    config = compose_config(["training=stage2_pretrain", *overrides])
    training: Any = config.training
    assert (training.max_tokens, training.sequence_length_tokens) == (1_500_000_000, 2048)
    assert training.precision is Precision.bf16
    assert (config.distributed.kind, config.distributed.devices) == ("fsdp", 8)
    assert found["run"]["tokens"] >= 1_500_000_000


def test_hours_and_cost_follow_from_tokens_and_price(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("-m", "smollm2_360m", "--gpu", "H100:2", "--tokens", "1B", "--utilization", "0.5")
    found = planned(capsys, *arguments, "--price", "2")
    seconds = found["run"]["tokens"] * found["flop_per_token"] / (0.5 * 2 * 989e12)
    assert found["hours"] == pytest.approx(seconds / 3600)
    assert found["usd"] == pytest.approx(2 * 2 * seconds / 3600)


def test_what_was_not_measured_has_no_speed(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "-m", "qwen3_0_6b", "--gpu", "H100", "training.precision=float32")
    assert found["tokens_per_s"] is None
    assert found["hours"] is None
    assert found["layouts"][0]["total_bytes"] > 0
    assert any("not measured" in note for note in found["notes"])
    assert planned(capsys, "-m", "qwen3_0_6b", "--gpu", "H200")["usd"] is None, "no price is known"


def test_minutes_become_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("training.max_steps=null", "training.minutes=30")
    found = planned(capsys, "-m", "smollm2_135m", "--gpu", "H100", *overrides)
    assert found["hours"] == pytest.approx(0.5, rel=1e-3)


def test_the_table_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "qwen3_4b", "--gpu", "H100:8"]) == 0
    out = capsys.readouterr().out
    assert "4,022 million parameters" in out
    assert "fits: fsdp" in out
    for name in ("weights", "gradients", "moments", "activations", "loss and logits", "gathered by fsdp"):
        assert name in out


def test_a_folder_is_read_without_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it's, (1)"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PUBLISHED["Qwen/Qwen3-0.6B"]))
    monkeypatch.chdir(tmp_path)
    found = planned(capsys, "-m", folder.name, "--gpu", "H100", "model.scheme=group64")
    assert found["model"]["parameters"] == STATED["Qwen/Qwen3-0.6B"]
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert "hidden_size" in refusal(capsys, "-m", folder.name, "--gpu", "H100")
    (folder / "config.json").write_text("{")
    assert "damaged" in refusal(capsys, "-m", folder.name, "--gpu", "H100")
    (folder / "config.json").unlink()
    assert "is missing" in refusal(capsys, "-m", folder.name, "--gpu", "H100")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["-m", "qwen3_4b", "--gpu", "H1000"],
            "--gpu H1000: H1000 is not known here; known: B200, H200, H100",
        ),
        (["-m", "qwen3_4b", "--gpu", "H100:-1"], "--gpu H100:-1: a count of -1"),
        (["-m", "qwen3_4b", "--gpu", "8"], "--gpu 8: give NAME or NAME:COUNT"),
        (["-m", "qwen3_4b", "--gpu", "H100", "--num-nodes", "0"], "--num-nodes of 0"),
        (["-m", "qwen3_4b", "--cpu", "0"], "--cpu 0 is not possible"),
        (["-m", "qwen3_4b", "--cpu", "2", "--num-nodes", "2"], "--num-nodes 2 with --cpu"),
        (["-m", "qwen3_4", "--gpu", "H100"], "--model qwen3_4: no preset"),
        (["-m", "qwen3_4b", "--gpu", "H100", "-s", "1.5"], "--stage 1.5 has no optimizer's steps"),
        (["-m", "qwen3_4b", "--gpu", "H100", "-s", "7"], "unknown stage '7'"),
        (["-m", "qwen3_4b", "--gpu", "H100", "--tokens", "-5"], "'-5' is no number of tokens"),
        (["-m", "qwen3_4b", "--gpu", "H100", "--tokens", "lots"], "'lots' is no number of tokens"),
        (["-m", "qwen3_4b", "--gpu", "H100", "--batch", "-3"], "training.batch_size=-3 is not possible"),
        (["-m", "qwen3_4b", "--gpu", "H100", "--seq", "0"], "training.sequence_length_tokens=0"),
        (["-m", "qwen3_4b", "--gpu", "H100", "--price", "nan"], "'nan' is no number from"),
        (["-m", "qwen3_4b", "--gpu", "H100", "model=qwen3_0_6b"], "leave it out; --model gives it"),
        (["-m", "qwen3_4b", "--gpu", "H100", "--utilization", "40"], "--utilization 40 is more than all of"),
        (["-m", "qwen3_4b", "--gpu", "H100", "distributed.accelerator=cpu"], "--gpu or --cpu gives it"),
        (
            ["-m", "qwen3_4b", "--gpu", "H100", "--seq", "8", "training.sequence_length_tokens=9"],
            "--seq gives",
        ),
        (["-m", "qwen3_4b", "--gpu", "H100", "training.batch_sise=3"], "batch_sise"),
        (["-m", "qwen3_4b", "--gpu", "H100", "optimizer.state=int8"], "kernels for the CPU alone"),
        (["-m", "", "--gpu", "H100"], "--model : no preset, no folder here"),
        (
            ["-m", "smollm2_135m", "--gpu", "H100", "--seq", "8193"],
            "training.sequence_length_tokens=8193, but the model's context is 8192 tokens",
        ),
        (
            ["-m", "qwen3_4b", "--gpu", "H100", "model.scheme=group64", "training.qk_clip.threshold=100"],
            "queries and keys of this model (qwen3) are normed (q_norm)",
        ),
        (
            ["-m", "smollm2_135m", "--gpu", "H100", "-s", "1.9", *LARGER_TEACHER],
            "the student has 30 blocks and the teacher 32",
        ),
        (
            ["-m", "smollm2_135m", "--gpu", "H100", "-s", "1.9", "model.teacher.kind=openai", *SERVER],
            "'layerwise' wants hidden states of its teacher, which model.teacher.kind=openai does not give",
        ),
        (
            ["-m", "smollm2_135m", "--gpu", "H100:2", "-s", "3", *OWN_TEXT, "distributed=fsdp"],
            "on_policy_distill': the student writes text between steps, which distributed=fsdp cannot do",
        ),
    ],
)
def test_wrong_requests_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("where", "capability"),
    [
        *(("--gpu=" + name, gpu.capability) for name, gpu in GPUS.items()),
        ("--cpu=2", None),
    ],
)
def test_fp8_is_planned_where_the_trainer_takes_it(
    where: str, capability: tuple[int, int] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", "smollm2_135m", where, "training.precision=fp8_experimental"]
    if capability is None or capability >= (9, 0):
        assert main(arguments) == 0
        return
    device, found = f"{where.removeprefix('--gpu=')}:1", ".".join(map(str, capability))
    assert refusal(capsys, *arguments).endswith(
        f"training.precision=fp8_experimental: this device ({device}) has no fp8 products "
        f"(compute capability {found}, and they need 9.0); choose training.precision=int8 or bf16"
    )


def test_capabilities_are_those_that_the_maker_states() -> None:
    stated = {"B200": "10.0", "H200": "9.0", "H100": "9.0", "A100-80GB": "8.0", "A100": "8.0"}
    stated |= dict.fromkeys(("L40S", "L4", "RTX4090"), "8.9")
    assert {name: "{}.{}".format(*gpu.capability) for name, gpu in GPUS.items()} == stated


def test_layouts_that_an_objective_cannot_have_are_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "-m", "smollm2_135m", "--gpu", "H100:2", "-s", "3", *OWN_TEXT)
    assert {each["distributed"] for each in found["layouts"]} == {"ddp"}


def test_no_pytorch_is_imported() -> None:
    source = "import sys; from wrinklefree.planning.main import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", source, "-m", "smollm2_135m", "--gpu", "H100"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    assert "wrinklefree.planning.plan" in done.stdout.split()
    assert not {"torch", "transformers", "lightning"} & set(done.stdout.split())


def test_a_block_diffusion_checkpoint_is_planned_with_its_own_scheme(
    diffusion_files_of: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which tensors it has does not depend on who sees whom."""
    settings = json.loads((diffusion_files_of["folder"] / "config.json").read_text())
    trained = {"quantization_config": {"quant_method": "wrinklefree", "scheme": "group64"}}
    (tmp_path / "config.json").write_text(json.dumps(settings | trained))
    plain = {
        key: value for key, value in settings.items() if key not in ("block_diffusion", "base_model_type")
    }
    before = shape_of("", plain | {"model_type": settings["base_model_type"]}, "group64")
    found = shape_of("", settings | trained, "none")
    assert (found.shapes, found.scheme) == (before.shapes, "group64")
    planned(capsys, "-m", str(tmp_path), "-s", "4", "--gpu", "H100", "training.sequence_length_tokens=128")
    packed = {"quantization_config": {"quant_method": "wrinklefree_packed", "scheme": "group64"}}
    (tmp_path / "config.json").write_text(json.dumps(settings | packed))
    assert "is packed already" in refusal(capsys, "-m", str(tmp_path), "--gpu", "H100")


def test_a_checkpoint_of_four_bits_is_refused(
    diffusion_files_of: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads((diffusion_files_of["folder"] / "config.json").read_text())
    trained = {"quantization_config": {"quant_method": "wrinklefree", "scheme": "int4-group64"}}
    (tmp_path / "config.json").write_text(json.dumps(settings | trained))
    refused = refusal(capsys, "-m", str(tmp_path), "--gpu", "H100")
    assert f"{tmp_path} has weights of scheme int4-group64: only these can be planned: tensor" in refused
