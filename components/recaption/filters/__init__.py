"""What is a caption and what is none."""
