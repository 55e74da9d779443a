"""What the losses of the shipped configs look like, over several seeds."""
