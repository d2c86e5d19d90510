"""Block-diffusion checkpoints: `wf eval` says bounds, and says that they are."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import bitnet_arch
from bitnet_arch.block_decoding import decode_blocks
from bitnet_arch.diffusion_model import to_block_diffusion
from wrinklefree_eval.bound import measure_bound
from wrinklefree_eval.diffusion_model import DiffusionModel
from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.evaluate import app
from wrinklefree_eval.opening import open_model
from wrinklefree_eval.show import app as show

run = CliRunner().invoke
MASK = 259
TEXT = "The cat sat on the mat, and the dog lay by the fire. In 1905 four papers changed physics."


@pytest.fixture(scope="module")
def folders(
    tiny_llama: Callable[..., Any],
    byte_tokenizer: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[int, Path]:
    """One random model: 0 is the autoregressive one, the others denoise blocks of that size."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 64}
    dense = tiny_llama(vocab_size=MASK, **sizes)
    with torch.no_grad():
        for weights in dense.parameters():
            weights.mul_(3)
    root = tmp_path_factory.mktemp("diffusion")
    dense.save_pretrained(root / "0")
    byte_tokenizer().save_pretrained(root / "0")
    for size in (1, 8):
        model, tokenizer = copy.deepcopy(dense), byte_tokenizer()
        to_block_diffusion(model, tokenizer, size)
        bitnet_arch.save_checkpoint(model, tokenizer, root / str(size), {"stage": "stage4"})
    return {size: root / str(size) for size in (0, 1, 8)}


@pytest.fixture(scope="module")
def opened(folders: dict[int, Path]) -> DiffusionModel:
    """The model of blocks of 8, with windows of 32."""
    model = open_model(folders[8], 32, num_threads=1)
    assert isinstance(model, DiffusionModel)
    return model


def _evaluate(path: Path, output: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    fixed = ["--model-path", str(path), "--threads", "1", "--output", str(output)]
    result = run(app, [*fixed, *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return json.loads(output.read_text()), result.stdout


@pytest.mark.parametrize("window", [[], ["--stride", "20"], ["--max-tokens", "50"]])
def test_blocks_of_one_token_have_the_perplexity_as_their_bound(
    folders: dict[int, Path], text_file: Path, tmp_path: Path, window: list[str]
) -> None:
    arguments = ["--text", str(text_file), "--context", "32", *window]
    (plain,) = _evaluate(folders[0], tmp_path / "a.json", *arguments)[0]["perplexity"]
    found, _ = _evaluate(folders[1], tmp_path / "b.json", *arguments)
    (bound,) = found["bound"]
    assert bound["bound"] == pytest.approx(plain["nll"], abs=1e-5)
    assert bound["perplexity_bound"] == pytest.approx(plain["perplexity"], rel=1e-5)
    assert bound["bits_per_byte_bound"] == pytest.approx(plain["bits_per_byte"], rel=1e-5)
    assert bound["bound_stderr"] == pytest.approx(plain["nll_stderr"], rel=1e-3)
    assert bound["mask_stderr"] == 0
    for name in ("num_tokens", "num_bytes", "num_documents", "stride_tokens"):
        assert bound[name] == plain[name]


def test_a_report_says_bound_and_has_no_perplexity(
    folders: dict[int, Path], text_file: Path, tmp_path: Path
) -> None:
    arguments = ["--text", str(text_file), "--context", "32", "--samples", "4"]
    found, printed = _evaluate(folders[8], tmp_path / "a.json", *arguments)
    assert found["perplexity"] == []
    (bound,) = found["bound"]
    assert bound["name"] == "bound on perplexity (diffusion)"
    assert (bound["samples"], bound["seed"], bound["block_size"]) == (4, 0, 8)
    assert 0 < bound["mask_stderr"] < bound["bound_stderr"]
    assert found["model"]["block_diffusion"] == {"block_size": 8, "mask_token_id": MASK, "token_shift": True}
    shown = run(show, [str(tmp_path / "a.json")], env={"COLUMNS": "200"}).stdout
    narrow = run(show, [str(tmp_path / "a.json")], env={"COLUMNS": "80"}).stdout
    for text in (printed, shown, narrow):
        assert "Bound on perplexity (diffusion): not a perplexity" in text
        assert f"{bound['perplexity_bound']:,.3f}" in text

    again, _ = _evaluate(folders[8], tmp_path / "b.json", *arguments)
    other, _ = _evaluate(folders[8], tmp_path / "c.json", *arguments, "--seed", "1")
    assert again["bound"][0]["bound"] == bound["bound"]
    change = abs(other["bound"][0]["bound"] - bound["bound"])
    assert 0 < change < 5 * math.sqrt(2) * bound["mask_stderr"]


def test_masks_of_a_text_do_not_depend_on_what_was_scored_before(opened: DiffusionModel) -> None:
    alone = measure_bound(opened, [TEXT], "alone")
    before = measure_bound(opened, ["something else", TEXT], "both")
    first = measure_bound(opened, ["something else"], "first")
    total = alone.bound * alone.num_tokens + first.bound * first.num_tokens
    assert before.bound * before.num_tokens == pytest.approx(total)


def test_tasks_are_by_the_bound_and_say_so(folders: dict[int, Path], data_dir: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    arguments = ["--tasks", "piqa,lambada_openai", "--data-dir", str(data_dir), "--context", "64"]
    found, printed = _evaluate(folders[8], tmp_path / "a.json", *arguments, "--answers", str(answers))
    assert set(found["tasks"]["piqa"]) >= {"acc", "acc_norm", "acc_stderr"}
    lambada = found["tasks"]["lambada_openai"]
    assert not any(name.startswith("perplexity") and "bound" not in name for name in lambada)
    assert lambada["perplexity_bound"] > 1
    how = found["tasks_by"]
    assert how["likelihood"] == "bound (diffusion)"
    assert 2 < how["passes_per_answer"] <= 17
    assert how["generation"] == "block decoding, threshold 0.9, sub-blocks of 8"
    assert "likelihoods by bound (diffusion)" in printed
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    model = open_model(folders[8], 64, num_threads=1)
    assert isinstance(model, DiffusionModel)
    context, answer = "Question: cut bread\nAnswer:", " Use a knife."
    ids = [model.tokenize(text) for text in (context, answer)]
    expected = -model.bound([*ids[0], *ids[1]], len(ids[0])).nats.sum()
    assert rows[0]["logprobs"][answer] == pytest.approx(expected, rel=1e-6)
    assert "perplexity" not in next(row for row in rows if row["task"] == "lambada_openai")["metrics"]


def test_short_answers_cost_few_passes(opened: DiffusionModel) -> None:
    """Blocks of 8 with the shift: 1 pass over finished blocks, and a pass for each choice of masks."""
    ids = opened.tokenize(TEXT)
    passes = {}
    for start, end in ((12, 13), (16, 17), (12, 14), (12, 16), (2, 3)):
        found = opened.bound(ids[:end], start)
        passes[start, end] = found.num_passes
        assert found.variances.sum() == 0
    assert passes == {(12, 13): 2, (16, 17): 1, (12, 14): 4, (12, 16): 16, (2, 3): 1}


def test_texts_are_decoded_by_blocks(opened: DiffusionModel) -> None:
    harness = opened.harness(1)
    prompt = "The cat sat on"
    whole = opened.detokenize(decode_blocks(opened.model, opened.tokenize(prompt), 12, end_ids={2}).token_ids)
    assert whole

    def ask(**options: Any) -> str:
        (text,) = harness.generate_until(
            [SimpleNamespace(args=(prompt, {"max_gen_toks": 12} | options))], True
        )
        return str(text)

    assert ask() == whole
    stop = whole[len(whole) // 2]
    assert ask(until=[stop]) == whole[: whole.index(stop)]
    drawn = [ask(do_sample=True, temperature=3.0) for _ in range(2)]
    assert drawn[0] == drawn[1] != whole


@pytest.mark.slow
def test_the_picture_of_parallel_decoding(
    folders: dict[int, Path], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """benchmarks/diffusion_quality.py: one token a pass at threshold 1, all of a sub-block at 0; its loops
    are told from its texts, and the figures of the judge are those of `wf eval`'s scorer."""
    script = Path(__file__).parent.parent / "benchmarks" / "diffusion_quality.py"
    spec = importlib.util.spec_from_file_location("diffusion_quality", script)
    assert spec is not None
    assert spec.loader is not None
    quality = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quality)
    command = [str(script), str(folders[8]), "--judge", str(folders[0]), "--text", str(text_file)]
    sizes = ["--output", str(tmp_path / "out"), "--texts", "2", "--prompt-tokens", "8", "--tokens", "24"]
    monkeypatch.setattr("sys.argv", [*command, *sizes, "--thresholds", "1", "0"])
    quality.main()
    report = json.loads((tmp_path / "out" / "quality.json").read_text())
    careful, bold = report["models"][str(folders[8])]
    assert careful["tokens_per_pass"] <= 1
    assert bold["tokens_per_pass"] > 2
    assert report["judge_text"]["tokens_per_pass"] == 1
    assert (tmp_path / "out" / "quality.png").stat().st_size > 10_000
    judge = open_model(folders[0], 64, num_threads=1)
    prompts = quality.prompts_of(judge, text_file, 2, 8, 24)
    scores = [
        judge.score(judge.tokenize(p.text + p.rest), len(judge.tokenize(p.text))).logprobs for p in prompts
    ]
    expected = math.exp(-np.concatenate(scores).mean())
    assert report["documents"]["judge_perplexity"] == pytest.approx(expected, rel=1e-4)
    loop = quality.judged(judge, prompts[:1], ["ab" * 30])
    assert loop["distinct_4grams"] == 2 / 57


@pytest.mark.parametrize(
    ("size", "arguments", "message"),
    [
        (8, ["--context", "30"], "--context 30 does not end with one of the model's blocks of 8 tokens"),
        (8, ["--context", "32", "--kind", "native"], "whose bound PyTorch computes"),
        (0, ["--context", "32", "--samples", "4"], "--samples is of the masks of a block-diffusion model"),
        (0, ["--describe", "--samples", "4"], "--samples is of the masks of a block-diffusion model"),
        (0, ["--context", "32", "--seed", "4"], "--seed is of the masks of a block-diffusion model"),
    ],
)
def test_what_does_not_fit_is_refused(
    folders: dict[int, Path], text_file: Path, size: int, arguments: list[str], message: str
) -> None:
    result = run(app, ["--model-path", str(folders[size]), "--text", str(text_file), *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_mask_token_is_no_text(opened: DiffusionModel) -> None:
    with pytest.raises(EvalError, match=f"holds the mask token .id {MASK}."):
        opened.bound([5, MASK, 6], 1)
    with pytest.raises(ValueError, match="use `bound`"):
        opened.score([5, 6])


def test_a_prompt_that_spells_the_mask_token_has_none(opened: DiffusionModel) -> None:
    """As `--text`: eight characters; other special tokens are parsed."""
    harness = opened.harness(1)
    mask = opened.diffusion.mask_token_id
    assert mask not in harness.tok_encode("a cat <|mask|> sat")
    assert opened.tokenizer.eos_token_id in harness.tok_encode(f"a{opened.tokenizer.eos_token}b")
    (text,) = harness.generate_until([SimpleNamespace(args=("a <|mask|> cat", {"max_gen_toks": 4}))])
    assert isinstance(text, str)


def test_a_mask_token_of_another_tokenizer_is_refused(opened: DiffusionModel) -> None:
    other = replace(opened.diffusion, mask_token_id=7)
    with pytest.raises(EvalError, match="the model's mask token is 7, the tokenizer's "):
        DiffusionModel(opened.path, opened.kind, opened.model, opened.tokenizer, 32, other)


def test_a_seed_beyond_64_bits_is_refused(tmp_path: Path) -> None:
    done = run(app, ["--model-path", str(tmp_path), "--text", "x.txt", "--seed", str(2**63)])
    assert done.exit_code == 2
