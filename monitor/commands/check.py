"""`monitor check`: everything that is wrong with the configuration, at once."""

from __future__ import annotations

import argparse

from monitor.commands.terminal import add_config, complain, say
from monitor.config.problem import Problem, SettingsError
from monitor.descriptors import hard_limit, shortage
from monitor.settings import PartlyRead, Settings, all_secrets, in_file_order, load_settings, secret_problems
from monitor.storage.database import check_address
from monitor.storage.errors import StorageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """1 if anything is wrong, the missing file included: that is the answer that was asked for."""
    problems: list[Problem] = []
    try:
        settings: Settings | None = load_settings(arguments.config)
    except SettingsError as error:
        problems += error.problems
        settings = error.draft if isinstance(error, PartlyRead) else None
    if settings is not None:
        problems += secret_problems(settings)
        problems += _place_problems(settings)
    if problems or settings is None:
        complain("\n".join(map(str, in_file_order(problems))))
        return 1
    catalog = settings.catalog
    short = shortage(settings.probing, catalog.lane_count, hard_limit())
    if short is not None:
        complain(f"warning: {short}")
    say(
        f"{settings.path}: fine: {len(catalog.endpoints)} endpoints of {len(catalog.models)} models "
        f"at {len(catalog.providers)} providers, {len(all_secrets(settings))} secrets"
    )
    return 0


def _place_problems(settings: Settings) -> list[Problem]:
    """What stands in the way of the database; a file that is still to be made does not."""
    try:
        check_address(settings.database, must_exist=False)
    except StorageError as error:
        return [Problem("", str(error), file=str(settings.path))]
    return []
