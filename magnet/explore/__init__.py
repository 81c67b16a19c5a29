"""Looking at answers one by one, in cells and with the mouse."""
