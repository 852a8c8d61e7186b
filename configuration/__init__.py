"""Every option in one place, and the files and environment that set them."""
