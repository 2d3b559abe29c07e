"""One clip over several ranks, and one model over many: what the model itself does not know about."""
