"""Second stage of SANA-WM (LTX-2 refiner). Not yet."""
