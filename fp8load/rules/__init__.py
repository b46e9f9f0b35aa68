"""The rules of `verify`: one file for each, named after its code. The folder's listing is the table of rules."""
