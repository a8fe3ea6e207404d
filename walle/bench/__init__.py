"""`walle bench`: a load, and what it shows. It uses the public client alone."""
