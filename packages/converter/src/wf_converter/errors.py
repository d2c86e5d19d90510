"""The one error of this package: an export that would lose information or cannot be proved."""

from __future__ import annotations

from wf_formats.errors import UserError


class ExportError(UserError, ValueError):
    """Refusal to export; the message names the tensor (or setting), the reason and the alternatives."""

    exit_code = 2
    label = "refused"
