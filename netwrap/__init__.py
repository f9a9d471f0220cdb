"""Container networking by hand: one visible command per step, and every step can be taken back."""

__version__ = "0.1.0"
