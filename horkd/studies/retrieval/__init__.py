"""Metric learning: Table 4 and Fig. 3."""
