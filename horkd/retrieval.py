"""The former name of `horkd.protocols.retrieval`."""

from horkd.protocols.retrieval import TIE, Alignment, align, measure, nearest, nmi

__all__ = ["TIE", "Alignment", "align", "measure", "nearest", "nmi"]
