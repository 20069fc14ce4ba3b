"""The table of supported models, made from the registry: ``python -m flashinterp.models.supported`` prints it."""

from __future__ import annotations

from transformers import AutoConfig

from flashinterp.models.architectures import FAMILIES, family_of


def supported() -> str:
    """The table in Markdown, as the README shows it."""
    lines = ["| `model_type` | for example | lenses | clamp at | what is special |", "|---|---|---|---|---|"]
    for name in FAMILIES:
        family = family_of(AutoConfig.for_model(name))
        gated = family.gate is not None
        lenses = "all five" if gated else "all but `gate`"
        sites = "`up`, `gate`, `post`" if gated else "`up`, `post`"
        lines.append(f"| `{name}` | {family.models} | {lenses} | {sites} | {family.remark} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(supported())
