"""CIFAR-100 and the embedded set: Table 1, Fig. 4."""
