"""The former name of `horkd.degradation`."""

from horkd.degradation import KERNELS, Degradation, resize

__all__ = ["KERNELS", "Degradation", "resize"]
