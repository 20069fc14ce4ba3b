"""From a pytest session's options to an open `AuditSession`: bad input is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def begin(config: pytest.Config) -> Any:
    """Open the models, read the claims and the baseline, and begin the run's folder.

    Raises:
        pytest.UsageError, FlashinterpError: an option is wrong, or a file cannot be read; nothing was written.
    """
    from transformers.utils import logging

    from flashinterp.evaluation.claims import load_claims
    from flashinterp.models.checkpoint import open_checkpoint
    from flashinterp.runs.compare.baseline import check_subject, read_run
    from flashinterp.runs.folder.run_folder import RunFolder
    from flashinterp.runs.options import Options
    from flashinterp.runs.session import AuditSession

    logging.disable_progress_bar()
    options = Options.of(config.option)
    if options.tuned and not options.model:
        raise pytest.UsageError("--tuned needs --model: name the base model that it was tuned from")
    if options.baseline and Path(options.baseline).resolve() == Path(options.out).resolve():
        raise pytest.UsageError(
            "--baseline and --out are the same folder, and a run replaces what is in it: choose another with --out"
        )
    bundle = _bundle(options.bundled) if options.bundled else None
    base = open_checkpoint(bundle.model if bundle else options.model)
    tuned_at = bundle.tuned if bundle else options.tuned
    tuned = open_checkpoint(tuned_at) if tuned_at else None
    prompts = _prompts(options.prompts or (bundle and bundle.prompts))
    for checkpoint in (base, tuned):
        if checkpoint is not None:
            _ = checkpoint.vocabulary  # a missing tokenizer shows now
    if options.claims:
        load_claims(options.claims)
    if options.baseline:
        check_subject(read_run(options.baseline), base)
    for word in options.tokens:
        base.vocabulary.resolve(word)
    audit = AuditSession(
        options, RunFolder.create(options.out), base, tuned, bundle is not None, bundle and bundle.truth, prompts
    )
    audit.begin()
    return audit


def _bundle(name: str) -> Any:
    """The bundled models of a name, and the truth about them."""
    try:
        from fixtures.bundles import BUNDLES
    except ImportError as error:
        raise pytest.UsageError("the bundled models are in the project's checkout only: name a --model") from error
    return BUNDLES[name]()


def _prompts(file: Any) -> Any:
    from flashinterp.evaluation.prompts import check_split, read_prompts, shipped

    prompts = read_prompts(file) if file else shipped()
    check_split(prompts)
    return prompts
