"""How a network is judged."""
