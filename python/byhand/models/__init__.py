"""Models: one page each, composed of layers; `registry` finds them by name."""
