"""What may be thrown at the code that reads strangers' bytes, and what must hold whatever it is."""
