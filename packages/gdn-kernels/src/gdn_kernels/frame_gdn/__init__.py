"""THE GDN RECURRENCE: README.md derives it, reference.py defines it, chunked.py computes it fast."""
