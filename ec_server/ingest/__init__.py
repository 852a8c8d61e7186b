"""From a SIP MESSAGE to a committed row."""
