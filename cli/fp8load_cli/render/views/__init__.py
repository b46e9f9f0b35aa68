"""Views: one file for each report, which turns it into a document."""
