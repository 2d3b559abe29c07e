"""What is measured on frames: likeness, revisits, drift, flicker, consistency; and adapters to outside scorers."""
