"""The argument parser of the data-preparation scripts."""

import argparse
from typing import NoReturn

from process_data.src.errors import PrepareError


class Parser(argparse.ArgumentParser):
    """Complains by a PrepareError, and knows options by their whole names only."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise PrepareError(f"{message} (--help lists the options)")
