"""Image embeddings, one file an encoder; importing the package lets configs name each by its class name alone."""

from data_prep.embed import efficientnet_lite0, imported, open_clip

__all__ = ["efficientnet_lite0", "imported", "open_clip"]
