"""Studies: arms, presets, results and pages."""
