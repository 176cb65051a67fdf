"""Reporting: from stored results to what people read. No torch here."""
