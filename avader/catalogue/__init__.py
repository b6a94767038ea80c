"""Names, types, units and checks of catalogue columns."""
