"""Training: one step, the loop around it, and what makes a run survive faults."""
