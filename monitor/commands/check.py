"""`monitor check`: everything that is wrong with the configuration, at once."""

from __future__ import annotations

import argparse

from monitor.commands.terminal import add_config, complain, say
from monitor.config.problem import SettingsError
from monitor.descriptors import hard_limit, shortage
from monitor.settings import all_secrets, load_settings, secret_problems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """1 if anything is wrong, the missing file included: that is the answer that was asked for."""
    try:
        settings = load_settings(arguments.config)
    except SettingsError as error:
        complain(str(error))
        return 1
    problems = secret_problems(settings)
    if problems:
        complain("\n".join(map(str, problems)))
        return 1
    catalog = settings.catalog
    short = shortage(settings.probing, len(catalog.endpoints), hard_limit())
    if short is not None:
        complain(f"warning: {short}")
    say(
        f"{settings.path}: fine: {len(catalog.endpoints)} endpoints of {len(catalog.models)} models "
        f"at {len(catalog.providers)} providers, {len(all_secrets(settings))} secrets"
    )
    return 0
