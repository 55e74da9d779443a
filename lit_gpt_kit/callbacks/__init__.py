"""What watches training: one file each."""
