"""Cross-resolution distillation."""
