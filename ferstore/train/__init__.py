"""Training: frozen training sets and what is fitted on them."""
