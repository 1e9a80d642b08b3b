"""`python -m vlmheads_eval`, so that `accelerate launch -m vlmheads_eval` works."""

from vlmheads_eval.commands.evaluate import evaluate

if __name__ == "__main__":
    evaluate(prog_name="vlmheads eval")
