"""Starting, watching and ending the server's processes."""
