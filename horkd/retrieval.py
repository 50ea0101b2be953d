"""The former name of `horkd.protocols.neighbours` and `horkd.protocols.alignment`."""

from horkd.protocols.alignment import Alignment, align
from horkd.protocols.neighbours import TIE, measure, nearest, nmi

__all__ = ["TIE", "Alignment", "align", "measure", "nearest", "nmi"]
