"""What the server says of itself: counters, health, metrics, the page."""
