"""tiny-omni and tiny-salmonn, small trained models for avflow: `avflow.load("tiny-omni")`. Files only, no code.

Each folder is a checkpoint; its MODEL_CARD.md says what it is.
"""

VERSION = "1.0.0"  # of the weights, not of avflow; whoever trains them again raises the first number
