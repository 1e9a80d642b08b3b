"""The commands of the evaluator."""

from vlmheads.commands.edge import CommandError as CommandError
from vlmheads.commands.edge import one_line_errors as one_line_errors
