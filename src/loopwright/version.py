"""The version of this package: `loopwright --version` tells it, and each record holds it."""

__version__ = "0.1.0"
