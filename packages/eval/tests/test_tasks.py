"""lm-eval tasks on local data: the same samples and scores through PyTorch and llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wrinklefree_eval.errors import EvalError
from wrinklefree_eval.opening import open_model
from wrinklefree_eval.task_runner import OUR_TASKS, run_tasks

NAMES = ["arc_easy", "hellaswag", "lambada_openai", "piqa"]


@pytest.fixture(scope="module")
def harnesses(small_gguf: Path, small_hf: Path) -> dict[str, Any]:
    return {
        "gguf": open_model(small_gguf, 128, num_threads=1).harness(1),
        "hf": open_model(small_hf, 128, num_threads=1).harness(4),
    }


@pytest.fixture(scope="module")
def scores(harnesses: dict[str, Any], data_dir: Path) -> dict[str, dict[str, dict[str, Any]]]:
    return {kind: run_tasks(lm, NAMES, data_dir=data_dir) for kind, lm in harnesses.items()}


def test_all_our_tasks_give_lm_eval_s_metrics_with_standard_errors(scores):
    for found in scores.values():
        assert sorted(found) == NAMES
        for name, values in found.items():
            metrics = ("perplexity", "acc") if name == "lambada_openai" else ("acc", "acc_norm")
            expected = {m for metric in metrics for m in (metric, f"{metric}_stderr")}
            assert set(values) == expected | {"num_samples"}
            assert values["num_samples"] == 3


def test_gguf_and_folder_score_alike(scores):
    for name in NAMES:
        for metric, value in scores["hf"][name].items():
            if "perplexity" in metric:
                assert scores["gguf"][name][metric] == pytest.approx(value, rel=1e-2)
            else:
                assert scores["gguf"][name][metric] == value


def test_labels_move_the_accuracy(scores):
    """Two of three records carry one label, the third another: accuracies are thirds."""
    for name in ("arc_easy", "piqa", "hellaswag"):
        assert scores["hf"][name]["acc"] in (pytest.approx(1 / 3), pytest.approx(2 / 3), 0.0)


def test_requests_have_the_same_log_likelihood(harnesses):
    """Also where the context is empty, ends in a space, or is cut from the left."""
    from lm_eval.api.instance import Instance

    pairs = [
        ("The cat sat on the", " mat"),
        ("", "Once upon a time"),
        ("Question: who? ", "Nobody knows."),
        ("word " * 200, "end of it"),
    ]
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    found = {k: lm.loglikelihood(asked, disable_tqdm=True) for k, lm in harnesses.items()}
    for left, right in zip(found["gguf"], found["hf"], strict=True):
        assert left[0] == pytest.approx(right[0], abs=0.05)
        assert left[1] == right[1]
    rolling = [Instance("loglikelihood_rolling", {}, (pairs[3][0],), 0)]
    totals = [lm.loglikelihood_rolling(rolling, disable_tqdm=True)[0] for lm in harnesses.values()]
    assert totals[0] == pytest.approx(totals[1], rel=1e-3)


@pytest.mark.parametrize("kind", ["gguf", "hf"])
def test_an_empty_answer_is_named(harnesses, kind: str):
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood", {}, ("The sky is", answer), 0) for answer in (" blue", "")]
    with pytest.raises(EvalError, match="answer '' to 'The sky is' has no token to be scored"):
        harnesses[kind].loglikelihood(asked, disable_tqdm=True)


def test_generation_stops_where_the_task_says(harnesses):
    from lm_eval.api.instance import Instance

    options = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
    (text,) = harnesses["gguf"].generate_until(
        [Instance("generate_until", {}, ("The cat", options), 0)], disable_tqdm=True
    )
    assert text
    assert "\n" not in text


def test_a_user_s_own_task(harnesses, tmp_path: Path):
    """With a function beside the YAML, absolute data, and a limit."""
    data = tmp_path / "mine.jsonl"
    data.write_text('{"a": "The sky is", "b": "blue"}\n' * 4)
    (tmp_path / "helpers.py").write_text("def to_text(doc):\n    return doc['a']\n")
    (tmp_path / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: !function helpers.to_text\n"
        "doc_to_choice: ['blue', 'loud']\ndoc_to_target: '{{b}}'\nmetric_list: [{metric: acc}]\n"
    )
    found = run_tasks(harnesses["hf"], ["mine"], tasks_dir=tmp_path, limit=2)
    assert found["mine"]["num_samples"] == 2
    assert found["mine"]["acc"] in (0.0, 1.0)


def test_what_is_missing_is_named(harnesses, data_dir: Path, tmp_path: Path):
    lm = harnesses["gguf"]
    with pytest.raises(EvalError, match="has no task 'mmlu'"):
        run_tasks(lm, ["mmlu"], data_dir=data_dir)
    with pytest.raises(EvalError, match="say where that lies with --data-dir"):
        run_tasks(lm, ["piqa"])
    with pytest.raises(EvalError, match=r"piqa/validation\.jsonl\.gz, which is missing"):
        run_tasks(lm, ["piqa"], data_dir=tmp_path)
    with pytest.raises(EvalError, match="no tasks folder"):
        run_tasks(lm, ["piqa"], tasks_dir=tmp_path / "none")


def test_every_task_file_is_covered():
    supervised = ["cnn_dailymail", "mnli", "mnli_mismatch", "qnli", "sst2"]  # test_supervised_tasks.py
    assert sorted(path.stem for path in OUR_TASKS.glob("*.yaml")) == sorted([*NAMES, *supervised])


def test_our_tasks_read_the_shared_data(shared_data: Path, harnesses):
    """The first sample of each set: fields and labels are those that the task files expect."""
    found = run_tasks(harnesses["gguf"], NAMES, data_dir=shared_data / "eval", limit=1)
    assert all(found[name]["num_samples"] == 1 for name in NAMES)
