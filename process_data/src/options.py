"""The argument parser of the data-preparation scripts."""

from typing import NoReturn

from process_data.src.errors import PrepareError
from utils import parser


class Parser(parser.Parser):
    """The parser of all scripts, which here complains by a PrepareError."""

    def refuse(self, message: str) -> NoReturn:
        """Raise a PrepareError."""
        raise PrepareError(message)
