"""The subcommands of `vlmheads`; none loads torch before it runs."""
