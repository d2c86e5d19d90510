"""Command line: the proof of an export against its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from wf_converter.command import console, run
from wf_converter.proof_limits import (
    DEFAULT_TOKENS,
    MAX_TOKENS,
    MIN_TOKENS,
    TOLERANCE_HELP,
    check_request,
)
from wf_formats.errors import RequestError
from wf_formats.targets import check_apart, check_report

if TYPE_CHECKING:
    from wf_converter.verify import Verification

REPORT_KEYS = ("passed", "problems", "export")
"""By which an earlier report is recognised, which --json may replace."""
_CHARS_PER_TOKEN = 16
"""More than any text has, so that the beginning of a long text is enough."""


def verify_command(
    checkpoint: Annotated[Path, typer.Option(help="Converted checkpoint folder.")],
    export: Annotated[Path, typer.Option(help="GGUF file or exported folder.")],
    text: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Text; by default Python's documentation."),
    ] = None,
    tokens: Annotated[
        int, typer.Option(help=f"Tokens of the text to compare ({MIN_TOKENS} to {MAX_TOKENS}).")
    ] = DEFAULT_TOKENS,
    tolerance: Annotated[float | None, typer.Option(help=TOLERANCE_HELP)] = None,
    json_output: Annotated[
        Path | None, typer.Option("--json", help="Write the findings there instead of to stdout.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="GGUF file with the low-rank corrections of the export.")
    ] = None,
) -> None:
    """Proves an export against its checkpoint; exit code 1 where it differs beyond the tolerance.

    Example:

      wf verify --checkpoint runs/x/stage2/final --export x.gguf
    """
    proof = Proof.prepare(checkpoint, text, tokens, tolerance, json_output, export, adapter)
    proof.run(export, adapter)


@dataclass(frozen=True)
class Proof:
    """A checked request: everything that can be refused before the export is read has been."""

    checkpoint: Path
    ids: list[int]
    tolerance: float | None
    json_output: Path | None

    @classmethod
    def prepare(
        cls,
        checkpoint: Path,
        text: Path | None,
        tokens: int,
        tolerance: float | None,
        json_output: Path | None,
        export: Path,
        adapter: Path | None = None,
    ) -> Self:
        """Raises: UserError for a value, a text, a tokenizer or a target that cannot be used."""
        check_request(tokens, tolerance)
        if json_output is not None:
            check_report(json_output, REPORT_KEYS)
            check_apart(json_output, checkpoint)
            check_apart(json_output, export)
            if adapter is not None:
                check_apart(json_output, adapter)
        ids = token_ids(checkpoint, text, tokens)
        if len(ids) < MIN_TOKENS:
            raise RequestError(
                f"{text or 'the text'} has {len(ids)} tokens, too few to prove anything: "
                f"{MIN_TOKENS} are needed"
            )
        return cls(checkpoint, ids, tolerance, json_output)

    def run(self, export: Path, adapter: Path | None = None) -> Verification:
        """Verifies, prints the findings as JSON and exits with 1 where they are beyond the tolerance."""
        from wf_converter.verify import verify

        with console.status(f"verifying with {len(self.ids)} tokens"):
            found = verify(self.checkpoint, export, self.ids, self.tolerance, adapter)
        _report(found, self.json_output)
        if not found.passed:
            raise typer.Exit(1)
        return found


def _report(found: Verification, json_output: Path | None) -> None:
    if json_output is None:
        typer.echo(found.to_json())
    else:
        from wf_formats.atomic import atomic_write_text

        atomic_write_text(json_output, found.to_json() + "\n")
    verdict = "proved" if found.passed else "NOT PROVED: " + "; ".join(found.problems)
    console.print(
        f"{verdict} ({found.runtime}, {found.tokens} tokens): mean |delta log-prob| "
        f"{found.judged.mean_abs_delta:.5f} (allowed {found.tolerance:.3g}), top-1 agreement "
        f"{found.judged.top1_agreement:.3f}, scales {found.scales.relative_error:+.2%} +- "
        f"{found.scales.standard_error:.2%}; as trained: {found.as_trained.mean_abs_delta:.4f} and "
        f"{found.as_trained.top1_agreement:.3f}{_perplexities(found)}"
    )


def _perplexities(found: Verification) -> str:
    if found.checkpoint_perplexity is None or found.export_perplexity is None:
        return ""
    return f"; perplexity {found.checkpoint_perplexity:.2f} -> {found.export_perplexity:.2f}"


def token_ids(checkpoint: Path, text: Path | None, tokens: int) -> list[int]:
    """The first `tokens` ids of a text in the checkpoint's tokenizer.

    Raises:
        RequestError: the text is not UTF-8.
        TokenizerError: the checkpoint has no tokenizer, or a damaged one.
    """
    from wf_formats.tokenizer.files import read_files

    contents = _contents(text) if text else _python_documentation()
    backend = read_files(checkpoint).backend()
    backend.no_truncation()
    backend.no_padding()
    ids: list[int] = backend.encode(contents[: _CHARS_PER_TOKEN * tokens]).ids
    return ids[:tokens]


def _contents(text: Path) -> str:
    try:
        return text.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"--text {text} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8"
        ) from error


def _python_documentation() -> str:
    from pydoc_data import topics

    return topics.topics["calls"] + topics.topics["class"] + topics.topics["import"]


def main() -> None:
    """Entry of scripts/verify.py."""
    run(verify_command, "python -m wf_converter verify")


if __name__ == "__main__":
    main()
