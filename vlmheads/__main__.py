"""`python -m vlmheads`, and `accelerate launch -m vlmheads`."""

from vlmheads.cli import main

if __name__ == "__main__":
    main(prog_name="vlmheads")
