"""What moves the weights: parameter groups and learning-rate schedules."""
