"""What data say of themselves: pure functions of arrays, names and pictures, for every reader and for the writer."""
