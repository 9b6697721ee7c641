"""The architectures that the project writes itself, a file each, and what they share."""
