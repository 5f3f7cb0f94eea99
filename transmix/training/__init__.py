"""Training: the step, the loop around it, and fault tolerance."""
